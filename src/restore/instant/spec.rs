//! A migration's source as librbd takes it: JSON that names a stream for the image and one for each of its snapshots.
//!
//! Source: Ceph's "Image Live-Migration" documentation (`doc/rbd/rbd-live-migration.rst`, "Import-Only Migration"), formats
//! `raw` with stream `http`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::serve::http::target::{Target, encode, parse};

/// Largest specification that is read from an image.
const SPEC_LEN_BYTES_MAX: usize = 1 << 20;

/// Where an image's content comes from while it is migrated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it is served.
    pub address: SocketAddr,
    /// The secret in the path.
    pub token: String,
    pub volume: String,
    pub sequence: u32,
    /// Snapshots of the image, oldest first: name and sequence.
    pub history: Vec<(String, u32)>,
}

#[derive(Serialize, Deserialize)]
struct Spec {
    #[serde(rename = "type")]
    kind: String,
    stream: Stream,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    snapshots: Vec<Named>,
}

#[derive(Serialize, Deserialize)]
struct Named {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    stream: Stream,
}

#[derive(Serialize, Deserialize)]
struct Stream {
    #[serde(rename = "type")]
    kind: String,
    url: String,
}

impl Source {
    pub fn to_json(&self) -> Result<String> {
        let stream = |sequence: u32| Stream { kind: "http".into(), url: self.url(sequence) };
        let snapshots = self.history.iter().map(|(name, sequence)| Named {
            kind: "raw".into(),
            name: name.clone(),
            stream: stream(*sequence),
        });
        let spec = Spec { kind: "raw".into(), stream: stream(self.sequence), snapshots: snapshots.collect() };
        serde_json::to_string(&spec)
            .map_err(|e| Error::internal("a migration's source is no JSON").caused_by(e))
    }

    fn url(&self, sequence: u32) -> String {
        format!("http://{}/@{}/{}/{sequence}.raw", self.address, self.token, encode(&self.volume))
    }

    /// Reads back what [`to_json`](Self::to_json) wrote. `Invalid` for a migration that is not of our making.
    pub fn from_json(text: &str) -> Result<Self> {
        let not_ours = || {
            Error::invalid("the image is migrated from elsewhere, not from a cuttle restore")
                .help("see `rbd status` for where it comes from")
        };
        let text = if text.len() <= SPEC_LEN_BYTES_MAX { text } else { "" };
        let spec: Spec = serde_json::from_str(text).map_err(|e| not_ours().caused_by(e))?;
        let (address, token, volume, sequence) = from_url(&spec.stream.url).ok_or_else(not_ours)?;
        let mut history = Vec::with_capacity(spec.snapshots.len());
        for named in spec.snapshots {
            let found = from_url(&named.stream.url).ok_or_else(not_ours)?;
            if (found.0, &found.1, &found.2) != (address, &token, &volume) {
                return Err(not_ours());
            }
            history.push((named.name, found.3));
        }
        Ok(Self { address, token, volume, sequence, history })
    }
}

fn from_url(url: &str) -> Option<(SocketAddr, String, String, u32)> {
    let rest = url.strip_prefix("http://")?;
    let (address, path) = rest.split_at(rest.find('/')?);
    let asked = parse(path)?;
    match asked.target {
        Target::Image { volume, sequence: Some(sequence) } => {
            Some((address.parse().ok()?, asked.token?, volume, sequence))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source {
            address: "127.0.0.1:4711".parse().expect("an address"),
            token: "00ff".into(),
            volume: "vms/o'dd \"db\"".into(),
            sequence: 12,
            history: vec![("monday".into(), 10), ("backup-11".into(), 11)],
        }
    }

    #[test]
    fn what_librbd_takes() {
        let plain = Source { volume: "vms/db".into(), history: Vec::new(), ..source() };
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
            ours.replacen("@00ff", "@00fe", 1),
            ours.replace("12.raw", "latest.raw"),
            ours.replace("http://", "https://"),
            ours.replace("127.0.0.1:4711", "example.com"),
            format!("{ours}{}", " ".repeat(SPEC_LEN_BYTES_MAX)),
        ] {
            assert!(Source::from_json(&text).is_err(), "{text:.200}");
        }
    }
}
