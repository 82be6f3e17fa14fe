//! From the sources that were named to the volumes that are backed up.

use std::collections::BTreeMap;

use cuttle::rbd::{Cluster, RbdSpec};
use cuttle::units::VolumeName;
use cuttle::{Error, Result};

use crate::cli::Context;
use crate::cli::connect::{self, blocking};
use crate::cli::failure::Failure;
use crate::cli::place::Place;

/// One volume to back up.
#[derive(Debug, Clone)]
pub struct Job {
    pub source: Place,
    pub volume: VolumeName,
}

/// What was found.
pub struct Sources {
    pub jobs: Vec<Job>,
    /// Where any source is an image.
    pub cluster: Option<Cluster>,
    /// Sources that stand for no volume, and why.
    pub failed: Vec<(String, Failure)>,
}

/// Refuses what cannot be meant, before anything is asked of anyone.
pub fn check(places: &[Place], volume: Option<&VolumeName>) -> Result<()> {
    let all = places.iter().any(|p| matches!(p, Place::Rbd(spec) if spec.is_all()));
    if volume.is_some() && (places.len() > 1 || all) {
        return Err(Error::invalid("--volume names one volume, and there are several sources")
            .help("run cuttle once for each source that needs a name"));
    }
    if places.contains(&Place::Stream) && places.len() > 1 {
        return Err(Error::invalid("standard input cannot be backed up together with other sources")
            .help("run cuttle once for - and once for the others"));
    }
    let named = |place: &Place| volume.cloned().map_or_else(|| place.volume_name(), Ok);
    places.iter().filter(|p| !is_all(p)).try_for_each(|place| named(place).map(|_| ()))
}

/// Refuses a size where what is backed up knows its own.
pub fn check_size(places: &[Place], size_bytes: Option<u64>) -> Result<()> {
    match (places, size_bytes) {
        (_, None) | ([Place::Stream | Place::Command(_)], _) => Ok(()),
        _ => Err(Error::invalid(
            "--size is of a volume on standard input or from a command, and there is none",
        )),
    }
}

fn is_all(place: &Place) -> bool {
    matches!(place, Place::Rbd(spec) if spec.is_all())
}

/// Connects where that is needed, and finds all volumes. A source that stands for none does not stop the others.
pub async fn resolve(
    context: &Context<'_>,
    places: &[Place],
    volume: Option<&VolumeName>,
) -> Result<Sources> {
    let mut failed = Vec::new();
    let images = places.iter().filter(|p| matches!(p, Place::Rbd(_))).count();
    let cluster = match images {
        0 => None,
        _ => match connect::cluster(context).await {
            Ok(cluster) => Some(cluster),
            Err(e) if images == places.len() => return Err(e),
            Err(e) => {
                let why = Failure::from(&e);
                let images = places.iter().filter(|p| matches!(p, Place::Rbd(_)));
                failed.extend(images.map(|place| (place.to_string(), why.clone())));
                None
            }
        },
    };
    let mut found: BTreeMap<VolumeName, Place> = BTreeMap::new();
    let mut jobs = Vec::new();
    for place in places {
        let expanded = match (place, &cluster) {
            (Place::Rbd(_), None) => continue,
            (Place::Rbd(spec), Some(cluster)) if spec.is_all() => {
                match expand(context, cluster, spec).await {
                    Ok(expanded) => expanded,
                    Err(e) => {
                        failed.push((place.to_string(), Failure::from(&e)));
                        continue;
                    }
                }
            }
            _ => vec![place.clone()],
        };
        for source in expanded {
            let name = match volume.cloned().map_or_else(|| source.volume_name(), Ok) {
                Ok(name) => name,
                Err(e) => {
                    failed.push((
                        source.to_string(),
                        Failure::from(&e.help("back it up by itself, with --volume NAME")),
                    ));
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
                    found.insert(name.clone(), source.clone());
                    jobs.push(Job { source, volume: name });
                }
            }
        }
    }
    Ok(Sources { jobs, cluster, failed })
}

async fn expand(context: &Context<'_>, cluster: &Cluster, spec: &RbdSpec) -> Result<Vec<Place>> {
    let (cluster, spec) = (cluster.clone(), spec.clone());
    let specs = blocking(context, move || spec.expand(&cluster)).await?;
    Ok(specs.into_iter().map(Place::Rbd).collect())
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::cli::place::Place;

    #[test]
    fn what_cannot_be_meant() {
        let check = |places: &[&str], volume: Option<&str>| {
            let places: Vec<_> = places.iter().map(|p| Place::parse(p).expect("a place")).collect();
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
