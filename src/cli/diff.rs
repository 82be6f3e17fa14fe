//! `cuttle diff`: what changed between two snapshots.

use std::fmt::Write;

use clap::ValueEnum;
use serde::Serialize;

use cuttle::units::{Content, Extent};
use cuttle::{Result, export};

use super::{Context, Exit, connect};

/// Extents that are held back to find out how wide columns are; beyond it the columns stay as wide as they are.
const ALIGNED_MAX: usize = 1 << 18;
/// Extents printed at once.
const PRINTED_AT_ONCE: usize = 1 << 12;

const EXAMPLES: &str = "\
Reads manifest pages only, and of those only the ones that differ: no data is fetched. Ranges are whole chunks, and
neighbours are one. Where a volume shrank, what lies beyond its new end is not listed, as rbd diff does not either.

With one snapshot, all of its data is listed.

Examples:
  cuttle diff vms/db@11 vms/db@12
  cuttle diff vms/db@11 vms/db --format json | jq 'map(select(.exists == \"true\").length) | add'
  cuttle diff vms/db

Formats, as rbd diff prints them:
  plain  a table: Offset, Length, Type (data or zero)
  json   [{\"offset\":0,\"length\":4194304,\"exists\":\"true\"}, …]; \"exists\" is \"false\" for zero. --json means this
  xml    <extents><extent><offset>0</offset><length>4194304</length><exists>true</exists></extent>…</extents>";

/// List the ranges that differ between two snapshots, as rbd diff does
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The older snapshot; alone, all of its data is listed
    #[arg(value_name = "SNAPSHOT")]
    from: String,
    /// The newer snapshot
    #[arg(value_name = "SNAPSHOT")]
    to: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Shape::Plain)]
    format: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Plain,
    Json,
    Xml,
}

/// An extent, as `rbd diff --format json` has it.
#[derive(Serialize)]
struct Listed {
    offset: u64,
    length: u64,
    exists: &'static str,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let project = connect::project(context, false).await?;
    let first = project.volumes().snapshot(&args.from).await?;
    let (from, to) = match &args.to {
        Some(to) => (Some(first), project.volumes().snapshot(to).await?),
        None => (None, first),
    };
    let shape = if context.ui.is_json() { Shape::Json } else { args.format };
    let mut printer = Printer { context, shape, held: Vec::new(), widths: None, begun: false };
    let mut cancel = context.cancel.clone();
    export::changes(&project, from.as_ref(), &to, &mut cancel, &mut |extent| printer.add(extent)).await?;
    printer.finish()?;
    Ok(Exit::Success)
}

/// Prints extents some at a time.
struct Printer<'a> {
    context: &'a Context<'a>,
    shape: Shape,
    held: Vec<Extent>,
    widths: Option<(usize, usize)>,
    begun: bool,
}

impl Printer<'_> {
    fn add(&mut self, extent: Extent) -> Result<()> {
        self.held.push(extent);
        let held_max = match (self.shape, self.widths) {
            (Shape::Plain, None) => ALIGNED_MAX,
            _ => PRINTED_AT_ONCE,
        };
        if self.held.len() >= held_max { self.print(false) } else { Ok(()) }
    }

    fn finish(mut self) -> Result<()> {
        self.print(true)
    }

    fn print(&mut self, last: bool) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        let text = match self.shape {
            Shape::Plain => self.plain(&held),
            Shape::Json => self.json(&held, last)?,
            Shape::Xml => self.xml(&held, last),
        };
        self.begun = true;
        if text.is_empty() { Ok(()) } else { self.context.ui.print(&text) }
    }

    /// Columns as wide as their widest cell, two spaces between them: Ceph's `TextTable`.
    fn plain(&mut self, extents: &[Extent]) -> String {
        let mut lines = Vec::with_capacity(extents.len() + 1);
        let width = |title: &str, number: fn(&Extent) -> u64| {
            let longest = extents.iter().map(|e| number(e).to_string().len()).max().unwrap_or_default();
            longest.max(title.len())
        };
        let (offset, length) = *self.widths.get_or_insert_with(|| {
            (width("Offset", |e| e.offset_bytes), width("Length", |e| e.length_bytes))
        });
        if !self.begun && !extents.is_empty() {
            lines.push(format!("{:offset$}  {:length$}  Type", "Offset", "Length"));
        }
        for extent in extents {
            let kind = if extent.content == Content::Data { "data" } else { "zero" };
            lines.push(format!("{:<offset$}  {:<length$}  {kind}", extent.offset_bytes, extent.length_bytes));
        }
        lines.join("\n")
    }

    fn json(&self, extents: &[Extent], last: bool) -> Result<String> {
        let mut text = String::new();
        for (at, extent) in extents.iter().enumerate() {
            text += match (self.begun, at) {
                (false, 0) => "[",
                _ => ",",
            };
            let (offset, length) = (extent.offset_bytes, extent.length_bytes);
            text += &super::report::list(&Listed { offset, length, exists: exists(extent) })?;
        }
        if last {
            text += if self.begun || !extents.is_empty() { "]" } else { "[]" };
        }
        Ok(text)
    }

    fn xml(&self, extents: &[Extent], last: bool) -> String {
        let mut text = if self.begun { String::new() } else { "<extents>".to_owned() };
        for extent in extents {
            let (offset, length) = (extent.offset_bytes, extent.length_bytes);
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "<extent><offset>{offset}</offset><length>{length}</length><exists>{}</exists></extent>",
                exists(extent)
            );
        }
        text + if last { "</extents>" } else { "" }
    }
}

fn exists(extent: &Extent) -> &'static str {
    if extent.content == Content::Data { "true" } else { "false" }
}
