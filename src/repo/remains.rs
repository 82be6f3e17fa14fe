//! What is left of a repository or project whose own record is gone. A new one in its place would make it harder to bring back.

use futures::TryStreamExt;

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::names::{PROJECTS_PREFIX, project_prefix};
use crate::store::Reader;
use crate::units::ProjectName;

/// Objects that are looked at before it is said that there are many.
const LOOKED_AT_MAX: usize = 1_000;

/// Objects of ours below a prefix: how many, and the first.
struct Remains {
    count: usize,
    first: String,
}

impl Remains {
    async fn below(store: &Reader, prefix: &str) -> Result<Option<Self>> {
        let mut listing = std::pin::pin!(store.list_stream(prefix, None));
        let mut found: Option<Self> = None;
        while let Some(info) = listing.try_next().await? {
            // Names that are none of ours are somebody else's.
            if ObjectName::parse(&info.key).is_none() {
                continue;
            }
            let found = found.get_or_insert(Self { count: 0, first: info.key });
            found.count += 1;
            if found.count >= LOOKED_AT_MAX {
                break;
            }
        }
        Ok(found)
    }

    fn text(&self) -> String {
        match self.count {
            1 => format!("one object, {}", self.first),
            LOOKED_AT_MAX.. => format!("many objects, {} among them", self.first),
            n => format!("{n} objects, {} among them", self.first),
        }
    }
}

/// No repository is made over what is left of another. Keys alone are left by an `init` that was killed, and hold nothing.
pub(super) async fn refuse_repository(store: &Reader) -> Result<()> {
    let Some(remains) = Remains::below(store, PROJECTS_PREFIX).await? else { return Ok(()) };
    Err(Error::conflict(format!(
        "at {} there is what is left of a repository whose object `repository` is gone: {}",
        store.url(),
        remains.text()
    ))
    .help(
        "bring that object back, from the bucket's older versions or a copy: with it all is as it was. A new repository needs \
         an empty place: choose another prefix or folder",
    ))
}

/// Says of a place without repository what is left of one there.
pub(super) async fn explain(store: &Reader, error: Error) -> Error {
    match Remains::below(store, PROJECTS_PREFIX).await {
        Ok(Some(remains)) => {
            Error::no_repository(format!("{error}, but what is left of one: {}", remains.text()))
                .help("bring its object `repository` back, from the bucket's older versions or a copy")
        }
        // The first error tells more than one of the search for its reasons.
        Ok(None) | Err(_) => error,
    }
}

/// No project is made over what is left of another, nor where this host saw one.
pub(super) async fn refuse_project(repository: &super::Repository, name: &ProjectName) -> Result<()> {
    let (store, memory) = (repository.store(), &repository.memory);
    let record = ObjectName::Project(name.clone());
    if store.head(&record.to_string()).await?.is_some() {
        return Err(exists(name));
    }
    const BACK: &str = "bring it back, from the bucket's older versions or a copy: with it all is as it was. For a new \
                        project choose another name";
    if let Some(remains) = Remains::below(store, &project_prefix(name)).await? {
        let what = remains.text();
        return Err(Error::conflict(format!(
            "there is what is left of project {name}, but {record} is gone: {what}"
        ))
        .help(BACK));
    }
    match memory.volumes_of(name) {
        None => Ok(()),
        Some(volumes) => {
            Err(memory
                .went_back(format!("project {name}, which had {volumes} volumes, is not there any more")))
        }
    }
}

pub(super) fn exists(name: &ProjectName) -> Error {
    Error::conflict(format!("project {name} exists already")).help("see `cuttle project list`")
}
