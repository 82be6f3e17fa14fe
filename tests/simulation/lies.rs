//! Stores that break their promises. Each lie makes a rule of the protocol void, as if the code did not keep it, so the
//! simulation must find what comes of it: that shows that it looks.

use bytes::Bytes;
use cuttle::format::ObjectName;
use cuttle::repo::default_project;
use cuttle::units::{Sequence, VolumeNumber};
use object_store::{ObjectMeta, Result};

use crate::oracle::Session;
use crate::store::{Op, Reply, Request, State, meta, not_found};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Creates overwrite what is there: a session may have two outcomes.
    CreatesOverwrite,
    /// Only those of prunes do: a session is aborted by a plain put.
    AbortsOverwrite,
    /// A backup's second look at the generation shows what the first did.
    NoSecondLook,
    /// A backup is told that all rounds are over: it knows of no condemned set.
    NothingCondemned,
    /// A prune is told that nobody is at work: it waits for no session.
    NobodyAtWork,
    /// A prune is told that its abort was written: the lease counts, not the outcome.
    AbortsVanish,
    /// A backup is never told that a snapshot was forgotten: its parent may be one.
    NothingForgotten,
}

/// Each with a seed whose world shows it.
pub const LIES: [(Lie, u64); 4] = [
    (Lie::CreatesOverwrite, 0),
    (Lie::AbortsOverwrite, 104),
    (Lie::NoSecondLook, 1254),
    (Lie::NobodyAtWork, 20),
];

/// Those that show in few worlds, as one rule stands in for the other: a parent that was forgotten is harmless where its chunks
/// are known to be condemned, and what is condemned is not met without such a parent. They are searched for by
/// `cargo xtask simulate --lies`: in a release build minutes, and any change of the requests moves them to other worlds.
pub const RARE_LIES: [(Lie, u64); 3] =
    [(Lie::NothingCondemned, 3577), (Lie::AbortsVanish, 16), (Lie::NothingForgotten, 2917)];

impl State {
    /// What a lying store does with a request; `None` where it is honest.
    pub fn lied(&mut self, request: &Request) -> Option<Result<Reply>> {
        let lie = self.lie?;
        let pruner = self.pruners.contains(&request.actor);
        let name = ObjectName::parse(&request.name);
        match (lie, &request.op, &name) {
            (Lie::CreatesOverwrite, Op::Create(bytes), _) => Some(self.write(request, &bytes.clone())),
            (Lie::AbortsOverwrite, Op::Create(bytes), Some(ObjectName::End(..))) if pruner => {
                Some(self.write(request, &bytes.clone()))
            }
            (Lie::AbortsVanish, Op::Create(_), Some(ObjectName::End(_, n, s))) if pruner => {
                self.vanished.insert((n.0, s.0));
                Some(Ok(Reply::Done))
            }
            (
                Lie::NobodyAtWork | Lie::AbortsVanish,
                Op::Head | Op::Get(_),
                Some(ObjectName::Forget(_, n, s)),
            ) if pruner => {
                let session: Session = (n.0, s.0);
                let told = lie == Lie::NobodyAtWork || self.vanished.contains(&session);
                if !told || !self.oracle.is_open(&session) {
                    return None;
                }
                // Nobody believes a name: it takes one who has the keys.
                let forged = self.oracle.forged_forget(&self.objects, session)?;
                Some(Ok(got(&request.name, forged)))
            }
            (Lie::NothingCondemned, Op::Get(_), Some(ObjectName::GcDone(_, round))) if !pruner => {
                let begin = request.name.replace(".done", ".begin");
                let begun = self.objects.get(&begin).is_some() && self.objects.get(&request.name).is_none();
                begun.then(|| Ok(got(&request.name, self.oracle.forged_done(*round))))
            }
            (Lie::NothingForgotten, Op::Get(_) | Op::Head, Some(ObjectName::Forget(..))) if !pruner => {
                Some(Err(not_found(&request.name)))
            }
            (Lie::NoSecondLook, Op::Get(_) | Op::Head, Some(ObjectName::GcBegin(..))) if !pruner => {
                let moment = *self.first_looks.get(&request.actor)?;
                let seen = self.objects.listed(&request.name, moment).contains_key(&request.name);
                (!seen).then(|| Err(not_found(&request.name)))
            }
            _ => None,
        }
    }

    /// What a lying store shows in a listing.
    pub fn lied_list(&mut self, request: &Request, moment: usize) -> Option<Vec<ObjectMeta>> {
        let lie = self.lie?;
        let rounds = request.name.ends_with("/gc/");
        if self.pruners.contains(&request.actor) {
            return self.hidden_at_work(lie, request, moment);
        }
        match lie {
            Lie::NoSecondLook if rounds => {
                let first = *self.first_looks.entry(request.actor).or_insert(moment);
                Some(self.shown(request, first))
            }
            Lie::NothingForgotten => {
                let mut shown = self.shown(request, moment);
                shown.retain(|m| !m.location.as_ref().ends_with(".forget"));
                Some(shown)
            }
            _ => None,
        }
    }

    /// Sessions under way, shown to a prune as if they were forgotten.
    fn hidden_at_work(&self, lie: Lie, request: &Request, moment: usize) -> Option<Vec<ObjectMeta>> {
        let all = lie == Lie::NobodyAtWork;
        if !all && lie != Lie::AbortsVanish {
            return None;
        }
        let mut shown = self.shown(request, moment);
        let open = self.oracle.opened.keys().filter(|session| self.oracle.is_open(session));
        for (n, s) in open.filter(|session| all || self.vanished.contains(session)) {
            let name = ObjectName::Forget(default_project(), VolumeNumber(*n), Sequence(*s)).to_string();
            if name.starts_with(&request.name) {
                shown.push(meta(&name, 200, 0));
            }
        }
        Some(shown)
    }
}

fn got(name: &str, bytes: Bytes) -> Reply {
    let len = bytes.len() as u64;
    Reply::Got { bytes, range: 0..len, meta: meta(name, len, 0) }
}
