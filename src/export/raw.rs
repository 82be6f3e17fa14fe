//! The volume's bytes and nothing else: what a restore writes.

use std::sync::Arc;

use super::{Exported, Format, Output};
use crate::error::Result;
use crate::sink::partial::check_folder;
use crate::sink::pipe::PipeSink;
use crate::sink::raw_file::RawFileSink;
use crate::sink::{Existing, Sink};

pub(super) struct Raw;

impl Format for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn takes_base(&self) -> bool {
        false
    }

    fn preview(&self, output: &Output, what: &Exported) -> Result<Existing> {
        match output {
            Output::Pipe(_) => Ok(Existing::Nothing),
            Output::File { path, overwrite } => {
                check_folder(path)?;
                RawFileSink::preview(path, what.size_bytes, *overwrite)
            }
        }
    }

    fn open(&self, output: Output, what: &Exported) -> Result<Arc<dyn Sink>> {
        Ok(match output {
            Output::File { path, overwrite } => {
                Arc::new(RawFileSink::open(&path, what.size_bytes, overwrite)?)
            }
            Output::Pipe(write) => Arc::new(PipeSink::new(write, what.size_bytes)),
        })
    }
}
