//! The process that does to images what guests and operators do: `operator.py`, by Ceph's own bindings.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::steps::Step;
use crate::world::Finding;

const PYTHON: &str = "/usr/bin/python3";
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/histories/operator.py");

pub struct Operator {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// An image as it is now.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Image {
    pub name: String,
    pub id: String,
    /// Whether a guest has it open.
    pub guest: bool,
    pub migrating: bool,
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
}

#[derive(Debug, Clone, serde::Deserialize)]
pub struct Snapshot {
    pub id: u64,
    pub name: String,
}

/// What was done, or why Ceph declined it.
pub type Done = Result<String, String>;

impl Operator {
    /// Whether the bindings are there.
    pub fn is_installed() -> bool {
        let said = Command::new(PYTHON).args(["-c", "import rados, rbd"]).stderr(Stdio::null()).status();
        said.is_ok_and(|status| status.success())
    }

    /// Starts it, with a pool of its own.
    pub fn start(conf: &str, pool: &str) -> Self {
        let mut child = Command::new(PYTHON)
            .args([PROGRAM, conf, pool])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the operator");
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, requests, answers }
    }

    pub fn wipe(&mut self) -> Result<(), Finding> {
        self.ask(&json!({"op": "wipe", "n": []})).map(drop)
    }

    /// Removes the pool and waits for its end.
    pub fn end(mut self) -> Result<(), Finding> {
        self.ask(&json!({"op": "end", "n": []}))?;
        self.requests = None;
        self.child.wait().map(drop).map_err(|e| Finding::new("operator", e.to_string()))
    }

    pub fn step(&mut self, step: &Step) -> Result<Done, Finding> {
        let answer = self.ask(&json!({"op": step.kind, "n": step.numbers}))?;
        Ok(match answer["did"].as_str() {
            Some(did) => Ok(did.to_owned()),
            None => Err(answer["declined"].as_str().unwrap_or("nothing said").to_owned()),
        })
    }

    /// All images, by name.
    pub fn look(&mut self) -> Result<Vec<Image>, Finding> {
        let mut answer = self.ask(&json!({"op": "look"}))?;
        let images = answer["images"].take();
        serde_json::from_value(images).map_err(|e| Finding::new("operator", format!("{e}: {answer}")))
    }

    /// What librbd reads: of an image as it is, or of a snapshot of it. `None` where that is gone.
    pub fn read(&mut self, id: &str, snapshot: Option<u64>) -> Result<Option<Vec<u8>>, Finding> {
        let answer = self.ask(&json!({"op": "read", "id": id, "snapshot": snapshot}))?;
        let Some(length) = answer["length"].as_u64() else { return Ok(None) };
        let mut bytes = vec![0; length as usize];
        self.answers.read_exact(&mut bytes).map_err(|e| self.died(&e.to_string()))?;
        Ok(Some(bytes))
    }

    fn ask(&mut self, request: &Value) -> Result<Value, Finding> {
        let mut line = request.to_string();
        line.push('\n');
        let mut answer = String::new();
        let asked = self.requests.as_mut().expect("not ended").write_all(line.as_bytes());
        let answered = asked.and_then(|()| self.answers.read_line(&mut answer));
        match answered {
            Ok(length) if length > 0 => {
                serde_json::from_str(&answer).map_err(|e| Finding::new("operator", format!("{e}: {answer}")))
            }
            _ => Err(self.died(&line)),
        }
    }

    /// A guest or an operator's program was killed by librbd: perhaps by what cuttle did to the image.
    fn died(&mut self, doing: &str) -> Finding {
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        Finding::new("operator died", format!("{status} at {doing}"))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
