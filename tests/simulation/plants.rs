//! Objects that somebody without any key creates under the protocol's names, while everything goes on: empty, noise, or a copy
//! of another object of its kind. They must do no harm.

use bytes::Bytes;
use cuttle::format::ObjectName;

use crate::dice::Dice;
use crate::objects::{Object, Objects};

const PROJECT: &str = "projects/default";
const VOLUMES: usize = 4;

/// What is planted in a world.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plants {
    Nothing,
    /// Names of rounds: prunes go on around them, and come to rest.
    Rounds,
    /// Also of logs and the catalog: prunes may stop at them, and nothing is lost.
    Anything,
}

/// Plants one object; its name, where that was free.
pub fn plant(objects: &mut Objects, plants: Plants, now_unix_ms: u64, dice: &mut Dice) -> Option<String> {
    let name = match plants == Plants::Rounds || dice.one_in(3) {
        true => round(objects, dice),
        false => log(objects, dice),
    };
    if objects.get(&name).is_some() {
        return None;
    }
    let bytes = content(objects, &name, dice);
    objects.put(&name, Object { bytes, modified_unix_ms: now_unix_ms });
    Some(name)
}

/// A name of a round that is under way, or the next ones'.
fn round(objects: &Objects, dice: &mut Dice) -> String {
    let begun = |g: &u32| objects.get(&format!("{PROJECT}/gc/{g:010}.begin")).is_some();
    let newest = (1..).take_while(begun).last().unwrap_or(0);
    let number = newest + dice.pick(&[0, 0, 0, 1, 1, 2, 1000]);
    format!("{PROJECT}/gc/{:010}.{}", number.max(1), dice.pick(&["begin", "seal", "done", "done"]))
}

/// A name of a log, of sequences that are there and the next ones, or of the catalog.
fn log(objects: &Objects, dice: &mut Dice) -> String {
    let volume = 1 + dice.below(VOLUMES);
    if dice.one_in(8) {
        return format!("{PROJECT}/volumes/{volume:010}");
    }
    let log = format!("{PROJECT}/log/{volume:010}");
    let open = |s: &u32| objects.get(&format!("{log}/{s:010}.open")).is_some();
    let last = (1..).take_while(open).last().unwrap_or(0);
    let number = (last + dice.pick(&[0, 1, 2, 1000])).saturating_sub(dice.pick(&[0, 0, 1, 2])).max(1);
    let kind = dice.pick(&["open", "end", "forget", "forget", "note.0000000001", "alive.0000000001"]);
    let place = if matches!(kind, "forget" | "note.0000000001") { "retention" } else { "log" };
    format!("{PROJECT}/{place}/{volume:010}/{number:010}.{kind}")
}

fn content(objects: &Objects, name: &str, dice: &mut Dice) -> Bytes {
    let kind = ObjectName::parse(name).map(|name| name.object_type());
    let like = |other: &&str| ObjectName::parse(other).map(|name| name.object_type()) == kind;
    let others: Vec<&str> = objects.names().filter(like).collect();
    match dice.below(3) {
        0 if !others.is_empty() => {
            let other = dice.pick(&others);
            objects.get(other).map(|object| object.bytes.clone()).unwrap_or_default()
        }
        1 => Bytes::from(vec![7; 200]),
        _ => Bytes::new(),
    }
}
