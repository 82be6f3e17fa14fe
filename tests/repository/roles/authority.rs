//! What is forgotten and deleted, the keeper says, and nobody for him (repo-format.md §4, sealing 2).

use cuttle::ErrorKind;
use cuttle::format::ObjectName;
use cuttle::format::gc::{BeginRecord, DoneRecord, SealRecord};
use cuttle::format::record::{ForgetRecord, NoteRecord, OpenRecord};
use cuttle::format::role::Role;
use cuttle::format::table::{self, TableEntry};
use cuttle::prune::PruneOptions;
use cuttle::units::{Generation, Sequence, VolumeNumber};

use super::thief::{Forgery, plant};
use crate::prune::world::{World, prune_on};
use crate::support::by_hand::{ByHand, names, put};
use crate::support::repo::verify;

/// The snapshot of the first volume that he is after, and one whose `.forget` the keeper did sign.
const WANTED: Sequence = Sequence(3);
const FORGOTTEN: Sequence = Sequence(1);

async fn forget_record(hand: &ByHand, sequence: Sequence) -> ForgetRecord {
    let open = ObjectName::Open(hand.project.clone(), VolumeNumber(1), sequence);
    let open: OpenRecord = hand.record(&open).await;
    ForgetRecord { snapshot_id: open.snapshot_id, host: "thief".into(), at_unix_ms: 0 }
}

#[tokio::test]
async fn a_forged_forget_hides_nothing_and_stops_a_prune() {
    for how in Forgery::ALL {
        let context = format!("{how:?}");
        let mut world = World::usual().await;
        let hand = world.by_hand().await;
        let forget = |sequence| ObjectName::Forget(hand.project.clone(), VolumeNumber(1), sequence);
        let record = forget_record(&hand, WANTED).await;
        plant(&hand, &forget(WANTED), &forget(FORGOTTEN), &record, how).await;
        world.check(&context).await;
        let before = hand.contents().await;
        let error = prune_on(&world.project().await, world.options()).await.expect_err(&context);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{context}: {error}");
        assert!(error.message().contains(&forget(WANTED).to_string()), "{context}: {error}");
        assert_eq!(hand.contents().await, before, "{context}");
        // Backups go on, and what verify finds has a name.
        world.edit("pool/a");
        world.back_up("pool/a").await;
        world.check(&context).await;
        let report = verify(&world.project().await, false).await.expect("verified");
        assert!(!report.ok(), "{context}");
        let named = report.damage.iter().any(|d| d.object == forget(WANTED).to_string());
        assert!(named, "{context}: {report:?}");
    }
}

/// As [`Forgery::Moved`], of the same name in another repository with the same keys there could not be; of an older object under its own name: it is the same decision.
#[tokio::test]
async fn the_forget_of_another_snapshot_is_none() {
    let world = World::usual().await;
    let hand = world.by_hand().await;
    let forget = ObjectName::Forget(hand.project.clone(), VolumeNumber(1), WANTED);
    // Signed by the keeper, for this name, and of another snapshot.
    hand.put_record(&forget, &forget_record(&hand, FORGOTTEN).await).await;
    world.check("another's").await;
    prune_on(&world.project().await, world.options()).await.expect_err("stopped");
    world.check("another's, and pruned").await;
}

#[tokio::test]
async fn a_forged_note_protects_and_unprotects_nothing() {
    for how in Forgery::ALL {
        let world = World::usual().await;
        let hand = world.by_hand().await;
        let note = |k| ObjectName::Note(hand.project.clone(), VolumeNumber(1), WANTED, k);
        let noted = async |protected| NoteRecord {
            snapshot_id: forget_record(&hand, WANTED).await.snapshot_id,
            protected,
            tags: vec!["t".into()],
            host: "h".into(),
            at_unix_ms: 0,
        };
        hand.put_record(&note(1), &noted(true).await).await;
        plant(&hand, &note(2), &note(7), &noted(false).await, how).await;
        let project = world.project().await;
        let catalog = project.volumes().confirmed().await.expect("a catalog");
        let seen = project.history(&catalog.entries()[0]).snapshots().await.expect("a log");
        let seen = seen.iter().find(|s| s.snapshot.sequence == WANTED).expect("it is there");
        assert!(seen.protected, "{how:?}");
    }
}

/// The gravest: a round of his own, sealed, that deletes everything there is; and an honest prune that finishes what it finds (`cases/security/a1`).
#[tokio::test]
async fn a_forged_round_is_carried_out_by_nobody() {
    for how in Forgery::ALL {
        for (seals, ends) in [(false, false), (true, false), (true, true)] {
            let context = format!("{how:?}, seals: {seals}, ends: {ends}");
            let mut world = World::usual().await;
            let hand = world.by_hand().await;
            let before = hand.contents().await;
            let (p, g, far) = (hand.project.clone(), Generation(1), Generation(9));
            let deleted: Vec<TableEntry> = hand.full_chunks().await;
            let part = hand.put_part(g, &table::encode(&deleted), deleted.len() as u32).await;
            let begin = BeginRecord { generation: g, last_seal: Generation(0), condemned: Vec::new() };
            let seal = SealRecord {
                generation: g,
                roster: Vec::new(),
                live_index: Vec::new(),
                deleted: vec![part],
                copied: false,
            };
            let done = DoneRecord { generation: g, last_seal: g };
            plant(
                &hand,
                &ObjectName::GcBegin(p.clone(), g),
                &ObjectName::GcBegin(p.clone(), far),
                &begin,
                how,
            )
            .await;
            if seals {
                plant(
                    &hand,
                    &ObjectName::GcSeal(p.clone(), g),
                    &ObjectName::GcSeal(p.clone(), far),
                    &seal,
                    how,
                )
                .await;
            }
            if ends {
                plant(
                    &hand,
                    &ObjectName::GcDone(p.clone(), g),
                    &ObjectName::GcDone(p.clone(), far),
                    &done,
                    how,
                )
                .await;
            }
            world.check(&context).await;
            world.edit("pool/b");
            world.back_up("pool/b").await;
            world.prune().await;
            world.check(&context).await;
            let after = hand.contents().await;
            assert!(before.keys().all(|name| after.contains_key(name)), "{context}");
            assert!(
                verify(&world.project().await, true)
                    .await
                    .expect("verified")
                    .damage
                    .iter()
                    .all(|d| d.object.contains("/gc/"))
            );
            // The keeper goes on, and what he forgets goes.
            world.forget("pool/a", 1).await;
            world.prune().await;
            world.check(&context).await;
            world.check_tidy(&context).await;
        }
    }
}

/// Keys that may not sign make nothing of that kind, and say so.
#[tokio::test]
async fn who_may_not_decide_cannot_seal_a_decision() {
    let world = World::usual().await;
    for (role, decides) in
        [(Role::Backup, false), (Role::Restore, false), (Role::Keeper, true), (Role::Admin, true)]
    {
        let hand = world.by_hand().await;
        let record = forget_record(&hand, WANTED).await;
        let hand = hand.of_role(role);
        let forget = ObjectName::Forget(hand.project.clone(), VolumeNumber(1), WANTED);
        let sealed = hand.at(&forget, |place| cuttle::codec::seal_record(place, &record));
        assert_eq!(sealed.is_ok(), decides, "{role}");
    }
}

/// A round that was joined is marked again: what it deletes, its own pruner decides, whoever sealed it.
#[tokio::test]
async fn a_sealed_round_without_roles_deletes_nothing_that_lives() {
    // One key for all, and he has it: `hand` signs as the keeper.
    let world = World::usual().await;
    let hand = world.by_hand().await;
    let entries = hand.full_chunks().await;
    hand.begin_round(1, &entries.iter().map(|e| e.object.name.id).collect::<Vec<_>>()).await;
    hand.seal_round(1, &entries, Vec::new()).await;
    let no_wait = PruneOptions { wait: false, ..world.options() };
    let _ = prune_on(&world.project().await, no_wait).await;
    world.check("a sealed round").await;
    assert!(!names(&*world.objects, "projects/default/chunks/").await.is_empty());
    put(&*world.objects, "projects/default/gc/0000000002.begin", Vec::new()).await;
    world.check("and a foreign one").await;
}
