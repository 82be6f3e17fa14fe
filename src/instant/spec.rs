//! A migration's source as librbd takes it: JSON that names a format and the stream that is read.
//!
//! Source: Ceph's "Image Live-Migration" documentation (`doc/rbd/rbd-live-migration.rst`, "Import-Only Migration"), formats
//! `qcow` and `raw` with stream `http`. Of a raw stream librbd copies holes as zeros, and every snapshot whole.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::serve::http::target::{Target, encode, parse};

/// Largest specification that is read from an image.
const SPEC_LEN_BYTES_MAX: usize = 1 << 20;

/// As what an image's content is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Holes stay holes, and older snapshots come along.
    Qcow,
    /// For an image that is not of whole sectors.
    Raw,
}

/// Where an image's content comes from while it is migrated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Where it is served.
    pub address: SocketAddr,
    /// The secret in the path.
    pub token: String,
    /// The volume's name, not encoded.
    pub volume: String,
    /// As what it is served.
    pub format: Format,
    /// Snapshots, oldest first: the last is the image, the others become its snapshots. One alone where it is raw.
    pub sequences: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct Spec {
    #[serde(rename = "type")]
    format: Format,
    stream: Stream,
}

#[derive(Serialize, Deserialize)]
struct Stream {
    #[serde(rename = "type")]
    kind: String,
    url: String,
}

impl Source {
    /// The JSON that `rbd migration prepare --import-only` takes; the token is in it.
    pub(super) fn to_json(&self) -> Result<String> {
        let spec = Spec { format: self.format, stream: Stream { kind: "http".into(), url: self.url() } };
        serde_json::to_string(&spec)
            .map_err(|e| Error::internal("a migration's source is no JSON").caused_by(e))
    }

    fn url(&self) -> String {
        let sequences: Vec<String> = self.sequences.iter().map(u32::to_string).collect();
        let kind = match self.format {
            Format::Qcow => "qcow2",
            Format::Raw => "raw",
        };
        let file = format!("{}.{kind}", sequences.join(","));
        format!("http://{}/@{}/{}/{file}", self.address, self.token, encode(&self.volume))
    }

    /// Reads back what [`to_json`](Self::to_json) wrote. `Invalid` for a migration that is not of our making.
    pub(super) fn from_json(text: &str) -> Result<Self> {
        let not_ours = || {
            Error::invalid("the image is migrated from elsewhere, not from a cuttle restore")
                .help("see `rbd status` for where it comes from")
        };
        let text = if text.len() <= SPEC_LEN_BYTES_MAX { text } else { "" };
        let spec: Spec = serde_json::from_str(text).map_err(|e| not_ours().caused_by(e))?;
        from_url(&spec.stream.url).filter(|found| found.format == spec.format).ok_or_else(not_ours)
    }
}

fn from_url(url: &str) -> Option<Source> {
    let rest = url.strip_prefix("http://")?;
    let (address, path) = rest.split_at(rest.find('/')?);
    let asked = parse(path)?;
    let (volume, format, sequences) = match asked.target {
        Target::Image { volume, sequence: Some(sequence) } => (volume, Format::Raw, vec![sequence]),
        Target::Qcow2 { volume, sequences } if !sequences.is_empty() => (volume, Format::Qcow, sequences),
        _ => return None,
    };
    Some(Source { address: address.parse().ok()?, token: asked.token?, volume, format, sequences })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source {
            address: "127.0.0.1:4711".parse().expect("an address"),
            token: "00ff".into(),
            volume: "vms/o'dd \"db\"".into(),
            format: Format::Qcow,
            sequences: vec![10, 11, 12],
        }
    }

    #[test]
    fn what_librbd_takes() {
        let plain = Source { volume: "vms/db".into(), ..source() };
        assert_eq!(
            plain.to_json().expect("JSON"),
            r#"{"type":"qcow","stream":{"type":"http","url":"http://127.0.0.1:4711/@00ff/vms/db/10,11,12.qcow2"}}"#
        );
        let plain = Source { format: Format::Raw, sequences: vec![12], ..plain };
        assert_eq!(
            plain.to_json().expect("JSON"),
            r#"{"type":"raw","stream":{"type":"http","url":"http://127.0.0.1:4711/@00ff/vms/db/12.raw"}}"#
        );
        for source in [plain, source()] {
            assert_eq!(Source::from_json(&source.to_json().expect("JSON")).expect("ours"), source);
        }
    }

    #[test]
    fn what_others_made_is_refused() {
        let ours = source().to_json().expect("JSON");
        for text in [
            String::new(),
            "{}".to_owned(),
            ours.replace("/@00ff", ""),
            ours.replace("\"qcow\"", "\"raw\""),
            ours.replace("\"qcow\"", "\"native\""),
            ours.replace("12.qcow2", "12.raw"),
            ours.replace("10,11,12", "latest"),
            ours.replace("http://", "https://"),
            ours.replace("127.0.0.1:4711", "example.com"),
            format!("{ours}{}", " ".repeat(SPEC_LEN_BYTES_MAX)),
        ] {
            assert!(Source::from_json(&text).is_err(), "{text:.200}");
        }
    }
}
