//! From the sources that were named to the volumes that are backed up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cuttle::plan::shard::Shard;
use cuttle::rbd::{Cluster, RbdSpec};
use cuttle::units::VolumeName;
use cuttle::{Error, Result};

use crate::cli::Context;
use crate::cli::connect::{self, blocking};
use crate::cli::failure::Failure;
use crate::cli::place::Source;

/// One volume to back up.
pub struct Job {
    /// As it was given, for people.
    pub source: String,
    pub volume: VolumeName,
    pub reached: Reached,
    /// How many of those that it was cloned from are in this run, one above the other: they are backed up first.
    pub level: usize,
    /// Ids of snapshots that are backed up before the image itself, as clones in this run hang on them.
    pub origins: Vec<u64>,
    /// Of a clone without a backup: what it was cloned from, which is backed up before it.
    pub parent: Option<String>,
}

/// A source of one volume, with what it is reached by.
pub enum Reached {
    Image(Cluster, RbdSpec),
    File(PathBuf),
    Stdin,
    Command(Vec<String>),
}

/// What was found.
pub struct Sources {
    pub jobs: Vec<Job>,
    /// Sources that stand for no volume, and why.
    pub failed: Vec<(String, Failure)>,
}

impl Sources {
    /// Leaves the volumes of other shares to others. What stands for no volume is everybody's.
    pub fn in_shard(mut self, shard: Option<Shard>) -> Self {
        self.jobs.retain(|job| shard.is_none_or(|shard| shard.has(job.volume.as_str())));
        self
    }
}

/// Refuses what cannot be meant, before anything is asked of anyone.
pub fn check(sources: &[Source], volume: Option<&VolumeName>) -> Result<()> {
    if volume.is_some() && (sources.len() > 1 || sources.iter().any(Source::is_all)) {
        return Err(Error::invalid("--volume names one volume, and there are several sources")
            .help("run cuttle once for each source that needs a name"));
    }
    if sources.contains(&Source::Stdin) && sources.len() > 1 {
        return Err(Error::invalid("standard input cannot be backed up together with other sources")
            .help("run cuttle once for - and once for the others"));
    }
    let named = |source: &Source| volume.cloned().map_or_else(|| source.volume_name(), Ok);
    sources.iter().filter(|source| !source.is_all()).try_for_each(|source| named(source).map(|_| ()))
}

/// Refuses a size where what is backed up knows its own.
pub fn check_size(sources: &[Source], size_bytes: Option<u64>) -> Result<()> {
    match (sources, size_bytes) {
        (_, None) | ([Source::Stdin | Source::Command(_)], _) => Ok(()),
        _ => Err(Error::invalid(
            "--size is of a volume on standard input or from a command, and there is none",
        )),
    }
}

/// Connects where that is needed, and finds all volumes. A source that stands for none does not stop the others.
pub async fn resolve(
    context: &Context<'_>,
    sources: &[Source],
    volume: Option<&VolumeName>,
) -> Result<Sources> {
    let only_images = sources.iter().all(|source| matches!(source, Source::Image(_)));
    let mut cluster = None;
    let mut found: BTreeMap<VolumeName, Source> = BTreeMap::new();
    let (mut jobs, mut failed) = (Vec::new(), Vec::new());
    for named in sources {
        let reached = match named {
            Source::Image(spec) => match connected(context, &mut cluster, only_images).await? {
                Ok(cluster) => images(context, cluster, spec).await,
                Err(why) => Err(why.clone()),
            },
            Source::File(path) => Ok(vec![(named.clone(), Reached::File(path.clone()))]),
            Source::Stdin => Ok(vec![(named.clone(), Reached::Stdin)]),
            Source::Command(words) => Ok(vec![(named.clone(), Reached::Command(words.clone()))]),
        };
        let reached = reached.unwrap_or_else(|why| {
            failed.push((named.to_string(), why));
            Vec::new()
        });
        for (source, reached) in reached {
            let name = match volume.cloned().map_or_else(|| source.volume_name(), Ok) {
                Ok(name) => name,
                Err(e) => {
                    let why = Failure::from(&e.help("back it up by itself, with --volume NAME"));
                    failed.push((source.to_string(), why));
                    continue;
                }
            };
            match found.get(&name) {
                Some(other) if *other == source => {}
                Some(other) => {
                    return Err(Error::invalid(format!("{other} and {source} are both the volume {name}"))
                        .help("back them up one by one, and name one of them with --volume"));
                }
                None => {
                    let (source_name, volume) = (source.to_string(), name.clone());
                    jobs.push(Job {
                        source: source_name,
                        volume,
                        reached,
                        level: 0,
                        origins: Vec::new(),
                        parent: None,
                    });
                    found.insert(name, source);
                }
            }
        }
    }
    Ok(Sources { jobs, failed })
}

/// The cluster, connected to once. That there is none is an error where nothing but images is backed up, and otherwise the
/// images' own.
async fn connected<'a>(
    context: &Context<'_>,
    once: &'a mut Option<Result<Cluster, Failure>>,
    only_images: bool,
) -> Result<&'a Result<Cluster, Failure>> {
    match once {
        Some(connected) => Ok(connected),
        None => match connect::cluster(context).await {
            Err(e) if only_images => Err(e),
            cluster => Ok(once.insert(cluster.map_err(|e| Failure::from(&e)))),
        },
    }
}

/// The images that are meant: one, or all of a pool.
async fn images(
    context: &Context<'_>,
    cluster: &Cluster,
    spec: &RbdSpec,
) -> Result<Vec<(Source, Reached)>, Failure> {
    let (at, spec) = (cluster.clone(), spec.clone());
    let specs = blocking(context, move || spec.expand(&at)).await.map_err(|e| Failure::from(&e))?;
    let reached = |spec: RbdSpec| (Source::Image(spec.clone()), Reached::Image(cluster.clone(), spec));
    Ok(specs.into_iter().map(reached).collect())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_cannot_be_meant() {
        let check = |places: &[&str], volume: Option<&str>| {
            let places: Vec<_> = places.iter().map(|p| p.parse().expect("a source")).collect();
            check(&places, volume.map(|v| v.parse().expect("a name")).as_ref())
        };
        assert!(check(&["a", "rbd:b", "rbd:p/*"], None).is_ok());
        assert!(check(&["-"], Some("v")).is_ok());
        assert!(check(&["a@b"], Some("v")).is_ok());
        for (places, volume) in [
            (&["-"][..], None),
            (&["a", "b"], Some("v")),
            (&["rbd:p/*"], Some("v")),
            (&["-", "a"], None),
            (&["a@b"], None),
        ] {
            assert!(check(places, volume).is_err(), "{places:?}");
        }
    }
}
