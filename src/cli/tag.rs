//! `cuttle tag`: changes the tags of snapshots.

use cuttle::repo::notes::Note;
use cuttle::{Error, Result};

use super::{Context, Exit, notes};

/// Longest tag.
const TAG_LEN_BYTES_MAX: usize = 256;

const EXAMPLES: &str = "\
SNAPSHOT is VOLUME (its newest), VOLUME@latest, VOLUME@SEQ, VOLUME@SNAPNAME, or the first digits of an id. Tags are
words without commas. Several go after one option, with commas between them, or each after its own. Where one of several
snapshots is not found, none is changed.

Examples:
  cuttle tag vms/db@14 --add release,v2
  cuttle tag vms/db@14 vms/web@9 --remove nightly --add weekly
  cuttle tag vms/db@14 --set ''       no tags any more
  cuttle snapshots --tag release";

/// Add, remove or set tags of snapshots
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("change").args(["add", "remove", "set"]).multiple(true).required(true)))]
pub struct Args {
    /// Whose tags to change
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,
    /// Tags to add
    #[arg(long, value_name = "TAG[,TAG…]", value_delimiter = ',', value_parser = parse_tag)]
    add: Vec<String>,
    /// Tags to remove
    #[arg(long, value_name = "TAG[,TAG…]", value_delimiter = ',', value_parser = parse_tag)]
    remove: Vec<String>,
    /// Tags to have instead of all others; '' for none
    #[arg(long, value_name = "TAG[,TAG…]", value_delimiter = ',', value_parser = parse_tag_or_none)]
    #[arg(conflicts_with_all = ["add", "remove"])]
    set: Option<Vec<String>>,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let change = |note: &mut Note| {
        if let Some(set) = &args.set {
            note.tags.clear();
            add(note, set.iter().filter(|tag| !tag.is_empty()));
        }
        add(note, &args.add);
        note.tags.retain(|tag| !args.remove.contains(tag));
    };
    notes::change(context, &args.snapshots, change).await
}

fn add<'a>(note: &mut Note, tags: impl IntoIterator<Item = &'a String>) {
    for tag in tags {
        if !note.tags.contains(tag) {
            note.tags.push(tag.clone());
        }
    }
}

/// Reads one tag.
pub fn parse_tag(text: &str) -> Result<String> {
    match text.is_empty() {
        true => Err(Error::invalid("a tag is empty")),
        false => parse_tag_or_none(text),
    }
}

fn parse_tag_or_none(text: &str) -> Result<String> {
    if text.len() > TAG_LEN_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "tag {text:?}: expected at most {TAG_LEN_BYTES_MAX} bytes without control characters"
        )));
    }
    Ok(text.to_owned())
}
