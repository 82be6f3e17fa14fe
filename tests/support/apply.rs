//! Applies a stream to bytes in memory: the plain meaning of a stream, to compare with.

use cuttle::Result;
use cuttle::source::{Content, StreamEvent, StreamSource};

/// What a stream makes of a base.
pub fn apply(stream: &mut dyn StreamSource, base: Vec<u8>) -> Result<Vec<u8>> {
    let mut volume = base;
    while let Some(event) = stream.next_event()? {
        match event {
            StreamEvent::Diff { size_bytes, .. } => volume.resize(size_bytes as usize, 0),
            StreamEvent::Extent(extent) => {
                let range =
                    extent.offset_bytes as usize..(extent.offset_bytes + extent.length_bytes) as usize;
                if stream.header().size_bytes.is_none() && range.end > volume.len() {
                    volume.resize(range.end, 0);
                }
                let target = &mut volume[range];
                match extent.content {
                    Content::Zero => target.fill(0),
                    Content::Data => read_into(stream, target)?,
                }
            }
        }
    }
    assert_eq!(stream.final_size_bytes(), volume.len() as u64);
    Ok(volume)
}

fn read_into(stream: &mut dyn StreamSource, target: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < target.len() {
        done += stream.read_data(&mut target[done..])?;
    }
    assert_eq!(stream.read_data(&mut [0; 8])?, 0, "an extent has no more data than its length");
    Ok(())
}
