//! `cuttle verify --repair`: from options to what the lost content is looked for in.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use cuttle::progress::Progress;
use cuttle::rbd::{CephConfig, Cluster};
use cuttle::repo::Keeper;
use cuttle::source::rbd::RbdReader;
use cuttle::verify::VerifyOptions;
use cuttle::verify::repair::{self, OpenOrigin, RepairOptions, Source, Sources};
use cuttle::volume::Identity;
use cuttle::{Error, Result};

use super::{READ, report};
use crate::cli::bar::Bar;
use crate::cli::connect::{self, blocking};
use crate::cli::place::{self, Readable};
use crate::cli::{Context, Exit};

/// Mends a project from the places and repositories that are named; where none is, from where it was backed up from.
pub async fn run(
    context: &Context<'_>,
    project: &Keeper,
    verify: VerifyOptions,
    places: Vec<Readable>,
    repositories: &[String],
) -> Result<Exit> {
    let mut sources = Sources::default();
    let is_named = !places.is_empty() || !repositories.is_empty();
    for place in places {
        sources.named.push(named(context, place).await?);
    }
    for address in repositories {
        let other = connect::other_project(context, address).await?;
        sources.projects.push((address.clone(), other));
    }
    if !is_named {
        sources.origins = Some(origins(connect::ceph_config(context)?));
    }
    let options = RepairOptions { verify, sources, dry_run: context.global.dry_run };
    let bar = Bar::new(context.ui, &format!("project {}", project.name()), READ, false);
    let progress: Arc<dyn Progress> = bar.clone();
    let result = repair::run(project, options, progress, context.cancel.clone()).await;
    bar.done();
    let mut found = result?;
    found.verify.ledger = project.repository().store().ledger();
    report::repaired(context, &found)
}

async fn named(context: &Context<'_>, place: Readable) -> Result<Source> {
    let label = place.to_string();
    match place {
        Readable::Image(spec) => {
            let cluster = connect::cluster(context).await?;
            let reader = blocking(context, move || RbdReader::of_image(&cluster, &spec)).await?;
            Ok(Source { label, reader: Arc::new(reader) })
        }
        Readable::File(path) => Ok(Source { label, reader: place::still(context, &path).await?.reader() }),
    }
}

/// Opens what snapshots were read from. The cluster is asked for only when something of it was lost.
fn origins(ceph: CephConfig) -> Arc<OpenOrigin> {
    let cluster: OnceLock<std::result::Result<Cluster, String>> = OnceLock::new();
    Arc::new(move |identity, point| match identity {
        Identity::Stream => Err(Error::not_found("a stream cannot be read again")),
        Identity::File { path } => {
            Ok(Source { label: path.clone(), reader: place::open_still(Path::new(path))?.reader() })
        }
        Identity::Rbd { pool, namespace, image, .. } => {
            let cluster = cluster.get_or_init(|| Cluster::connect(&ceph).map_err(|e| e.to_string()));
            let cluster = cluster.as_ref().map_err(|e| Error::unavailable(e.as_str()))?;
            let reader = RbdReader::of_origin(cluster, identity, point)?;
            let space = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
            let at = point.map(|p| format!("@{}", p.name)).unwrap_or_default();
            Ok(Source { label: format!("rbd:{pool}/{space}{image}{at}"), reader: Arc::new(reader) })
        }
    })
}
