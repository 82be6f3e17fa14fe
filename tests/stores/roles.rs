//! Roles on real stores: each account is given what `cuttle policy` prints, works with it for a week, and is refused everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cuttle::backup::{self, Input};
use cuttle::cancel::Cancel;
use cuttle::format::role::Role;
use cuttle::keys::Unlock;
use cuttle::policy::credentials::{self, Judged, Tried, Verdict};
use cuttle::policy::{self, Bucket, Provider, Verb};
use cuttle::progress::Silent;
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::events::{Wanted, What};
use cuttle::repo::{Admin, Repository, default_project};
use cuttle::store::permitted::Permitted;
use cuttle::store::{ObjectInfo, Store};
use cuttle::{ErrorKind, Result};
use zeroize::Zeroizing;

use crate::support::Numbers;
use crate::support::buckets::{S3, azurite_config, azurite_sas_config, create_azurite_container, fresh};
use crate::support::repo::{CHUNK, MemoryVolume, environment, init_on, latest, options, read_back, verify};

const C: usize = CHUNK as usize;
const PREFIX: &str = "ceph";
const ROLES: [Role; 3] = [Role::Backup, Role::Restore, Role::Keeper];

fn key_of(role: Role) -> Unlock {
    Unlock::KeyFile(Zeroizing::new(vec![60 + role as u8; 32]))
}

/// What a store holds its accounts to.
#[derive(Clone, Copy)]
struct Enforces {
    /// What is where, or only verbs.
    places: bool,
    /// And whose names are seen.
    listings: bool,
    /// That a put finds nothing there.
    create_only: bool,
}

/// A repository that its owner made, and the stores of the roles.
struct House {
    owner: Store,
    stores: BTreeMap<&'static str, Store>,
}

impl House {
    async fn new(owner: Store, store_of: impl Fn(Role) -> Store) -> Self {
        let admin = init_on(owner.clone(), CHUNK, true).await;
        let project = admin.project(&default_project()).await.expect("a project");
        for role in ROLES {
            admin.add_role_key(&project, role, &key_of(role), role.name()).await.expect("added");
        }
        let stores = ROLES.into_iter().map(|role| (role.name(), store_of(role))).collect();
        Self { owner, stores }
    }

    async fn open(&self, role: Role) -> Admin {
        let store = self.stores[role.name()].clone();
        Repository::open(store, environment(), &mut || Ok(key_of(role))).await.expect("opened")
    }

    /// A week of nights by the host, of forgetting and pruning by the keeper; and what the others do.
    async fn week(&self) {
        let volume = MemoryVolume::new(Numbers::new(9).bytes(20 * C));
        let mut contents = Vec::new();
        for night in 0..7 {
            let writer = self.open(Role::Backup).await.writer(&default_project()).await.expect("a writer");
            volume.edit(|content| {
                content[night * C..][..2 * C].copy_from_slice(&Numbers::new(night as u64).bytes(2 * C))
            });
            let input = Input::Volume(volume.clone());
            backup::run(&writer, input, &options("v"), Arc::new(Silent), Cancel::never())
                .await
                .expect("backed up");
            contents.push(volume.content());
            let keeper = self.open(Role::Keeper).await.keeper(&default_project()).await.expect("a keeper");
            if night == 1 {
                let seen = (&latest(&keeper, "v").await).into();
                keeper.notes().change(&seen, |note| note.protected = true).await.expect("protected");
            }
            if night > 2 {
                let name = [format!("v@{}", [1, 3, 4, 5][night - 3])];
                cuttle::forget::by_name(&keeper, &name, false, Cancel::never()).await.expect("forgotten");
                let done =
                    prune::run(&keeper, PruneOptions::default(), Arc::new(Silent), Cancel::never()).await;
                assert!(done.expect("pruned").deleted().objects > 0, "night {night}");
            }
        }
        let reader = self.open(Role::Restore).await.verifier(&default_project()).await.expect("a reader");
        let catalog = reader.volumes().confirmed().await.expect("a catalog");
        let snapshots = reader.history(&catalog.entries()[0]).snapshots().await.expect("snapshots");
        let sequences: Vec<u32> = snapshots.iter().map(|s| s.snapshot.sequence.0).collect();
        assert_eq!(sequences.len(), 3, "{sequences:?}");
        for snapshot in snapshots {
            let back = read_back(&reader, &snapshot).await.expect("read");
            assert!(back == contents[snapshot.snapshot.sequence.0 as usize - 1]);
        }
        assert!(verify(&reader, true).await.expect("verified").ok());
        // A lost chunk is found by who verifies, and is stored again by the next night.
        let chunks = self.owner.list("projects/default/chunks/", None).await.expect("listed");
        self.owner.delete(&chunks[0].key).await.expect("lost");
        assert!(!verify(&reader, true).await.expect("verified").ok());
        let writer = self.open(Role::Backup).await.writer(&default_project()).await.expect("a writer");
        let night = BackupNight { volume: &volume, writer: &writer };
        night.run().await;
        assert!(read_back(&reader, &latest(&reader, "v").await).await.expect("read") == volume.content());
    }

    /// What a key and the credentials of a store are found to be able to, without anything being changed by that.
    async fn tried(&self, role: Role, store: &Store) -> (Vec<Tried>, Judged) {
        let (tried, judged, renewed) = self.tried_renewing(role, store).await;
        assert!(renewed.is_empty(), "{role}: {renewed:?}");
        (tried, judged)
    }

    /// As [`tried`](Self::tried), where objects may get a new time; which those are.
    async fn tried_renewing(&self, role: Role, store: &Store) -> (Vec<Tried>, Judged, Vec<String>) {
        let admin = Repository::open(store.clone(), environment(), &mut || Ok(key_of(role))).await;
        let project = admin.expect("opened").verifier(&default_project()).await.expect("a project");
        let before = self.owner.list("", None).await.expect("listed");
        let tried = credentials::try_in(&project).await.expect("tried");
        let after = self.owner.list("", None).await.expect("listed");
        let content = |all: &[ObjectInfo]| -> Vec<_> {
            all.iter().map(|info| (info.key.clone(), info.size_bytes, info.stamp)).collect()
        };
        assert!(content(&before) == content(&after), "{role}: something is changed");
        let both = before.into_iter().zip(after);
        let renewed = both.filter(|(before, after)| before != after).map(|(before, _)| before.key);
        let judged = credentials::judge(role, project.name(), &tried);
        (tried, judged, renewed.collect())
    }

    /// Each role's own credentials fit it, and the owner's can too much for it.
    async fn judged(&self) {
        for role in ROLES {
            let (tried, judged) = self.tried(role, &self.stores[role.name()]).await;
            assert_eq!(judged.verdict, Verdict::Fits, "{role}: {tried:?}");
        }
        let (tried, judged) = self.tried(Role::Backup, &self.owner).await;
        assert_eq!(judged.verdict, Verdict::TooMuch, "{tried:?}");
    }

    /// Each role reads what happened, and the same.
    async fn told(&self) {
        let wanted = Wanted { volume: None, latest: 1000, since_unix_ms: 0 };
        let mut all = Vec::new();
        for role in ROLES {
            let project = self.open(role).await.verifier(&default_project()).await.expect("a project");
            let events = project.events().newest(wanted).await.expect("told");
            assert!(!events.iter().any(|event| matches!(event.what, What::Foreign(_))), "{role}: {events:?}");
            let times = events.iter().map(|event| event.stored_unix_ms);
            assert!(times.is_sorted_by(|newer, older| newer >= older), "{role}");
            all.push(events.into_iter().map(|event| event.name).collect::<Vec<_>>());
        }
        assert!(all[0].len() > 10 && all.iter().all(|names| *names == all[0]), "{all:?}");
    }

    /// Each verb of each role in each place: done, or refused.
    async fn matrix(&self, enforces: Enforces) {
        let places = [
            "repository",
            "keys/00000000000000bb",
            "projects/default/project",
            "projects/default/keys/00000000000000bb",
            "projects/default/volumes/0000000077",
            "projects/default/log/0000000077/0000000001.open",
            "projects/default/chunks/0000000000/aa/x",
            "projects/default/bundles/0000000000/aa/x",
            "projects/default/pages/0000000000/aa/x",
            "projects/default/lost/x",
            "projects/default/retention/0000000001/0000000077.forget",
            "projects/default/gc/0000000077.begin",
            "projects/default/gc/parts/0000000077/x",
            "projects/other/log/0000000001/0000000001.end",
            "projects/other/retention/0000000001/0000000001.forget",
            "elsewhere/x",
        ];
        let tried = Bytes::from_static(b"tried");
        for role in ROLES {
            let store = &self.stores[role.name()];
            let needs = policy::needs(role, &default_project());
            let any = |verb: Verb| needs.iter().any(|need| need.verbs.contains(&verb));
            let may = |verb: Verb, name: &str| {
                if !enforces.places {
                    return any(verb);
                }
                needs.iter().any(|need| {
                    let meant = if need.place.ends_with('/') {
                        name.starts_with(&need.place)
                    } else {
                        need.place == name
                    };
                    meant && need.verbs.contains(&verb)
                })
            };
            for name in places {
                let is = |done: Result<()>, wanted: bool, verb: &str| match done {
                    Ok(()) => assert!(wanted, "{role} may {verb} {name}"),
                    Err(e) => {
                        assert!(!wanted, "{role} may not {verb} {name}: {e}");
                        assert_eq!(e.kind(), ErrorKind::Denied, "{role} {verb} {name}: {e}");
                    }
                };
                let there = ["repository", "projects/default/project"].contains(&name);
                let before = self.owner.get(name, 1 << 20).await.expect("the owner reads");
                if !there {
                    is(store.create(name, tried.clone()).await.map(drop), may(Verb::Create, name), "create");
                    self.owner.replace(name, tried.clone()).await.expect("the owner puts");
                }
                is(store.get(name, 1 << 20).await.map(drop), may(Verb::Get, name), "get");
                if enforces.create_only || !may(Verb::Create, name) {
                    let replaced = store.replace(name, before.clone().unwrap_or_else(|| tried.clone())).await;
                    is(replaced, may(Verb::Replace, name), "replace");
                }
                if !there {
                    is(store.delete(name).await, may(Verb::Delete, name), "delete");
                    self.owner.delete(name).await.expect("the owner deletes");
                    // What is not there is told, where it may be asked for.
                    if may(Verb::Get, name) && may(Verb::List, name) {
                        assert!(store.get(name, 1 << 20).await.expect("asked").is_none(), "{role} {name}");
                    }
                } else if !may(Verb::Delete, name) {
                    is(store.delete(name).await, false, "delete");
                }
                let Some((prefix, _)) = name.rsplit_once('/') else { continue };
                if enforces.listings {
                    is(
                        store.list(&format!("{prefix}/"), None).await.map(drop),
                        may(Verb::List, name),
                        "list",
                    );
                }
            }
        }
    }
}

struct BackupNight<'a> {
    volume: &'a Arc<MemoryVolume>,
    writer: &'a cuttle::repo::Writer,
}

impl BackupNight<'_> {
    async fn run(&self) {
        let input = Input::Volume(self.volume.clone());
        let how = backup::BackupOptions { full: true, ..options("v") };
        backup::run(self.writer, input, &how, Arc::new(Silent), Cancel::never()).await.expect("backed up");
    }
}

fn bucket_of(store: &Store) -> Bucket {
    store.url().parse().expect("a bucket")
}

/// A repository on RGW, with the accounts of the roles.
async fn on_rgw(owner: &S3, bucket: &str) -> House {
    owner.create_bucket(bucket).await;
    let store = |key: &str, secret: &str| {
        Store::open(&S3::new(&owner.endpoint, key, secret).config(bucket, PREFIX)).expect("a store")
    };
    let whole = Store::open(&owner.config(bucket, PREFIX)).expect("a store");
    let accounts = [
        (Role::Backup, "backup-host", "AKHOST", "SKHOST"),
        (Role::Restore, "restorer", "AKRESTORE", "SKRESTORE"),
        (Role::Keeper, "pruner", "AKPRUNE", "SKPRUNE"),
    ];
    let users: Vec<(Role, String)> =
        accounts.iter().map(|(role, user, ..)| (*role, (*user).to_owned())).collect();
    let text =
        policy::render(Provider::Rgw, &bucket_of(&whole), &default_project(), &users).expect("a policy");
    let answer = owner.request("PUT", &format!("{bucket}?policy="), &[], &text).await;
    assert!(answer.status().is_success(), "{}: {text}", answer.status());
    House::new(whole, |role| {
        let (.., key, secret) = accounts.iter().find(|(of, ..)| *of == role).expect("an account");
        store(key, secret)
    })
    .await
}

#[tokio::test]
async fn on_rgw_each_role_does_its_work_and_nothing_else() {
    let Some(owner) = S3::on_rgw() else { return };
    let house = on_rgw(&owner, &fresh("roles")).await;
    house.week().await;
    house.judged().await;
    house.told().await;
    // Whoever may create there may replace: RGW 16.2 knows no condition for that. So docs/roles.md says to keep versions.
    house.matrix(Enforces { places: true, listings: true, create_only: false }).await;
}

/// Where nothing is yet a create cannot be tried, and a delete is. Where versions are kept a name that nothing has gets marks; and RGW then keeps no create
/// from replacing what is there, which is found with the first object.
#[tokio::test]
async fn on_rgw_who_asks_what_he_may_do_leaves_no_object() {
    let Some(owner) = S3::on_rgw() else { return };
    let bucket = fresh("whoami");
    let house = on_rgw(&owner, &bucket).await;
    let (tried, judged) = house.tried(Role::Backup, &house.stores["backup"]).await;
    assert!(tried.iter().all(|at| at.delete == Permitted::No), "{tried:?}");
    assert!(tried.iter().all(|at| matches!(at.create, Permitted::Unknown(_))), "{tried:?}");
    assert_eq!(judged.verdict, Verdict::Unknown);
    house.week().await;
    let versioned = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let answer = owner.request("PUT", &format!("{bucket}?versioning="), &[], versioned).await;
    assert!(answer.status().is_success(), "{}", answer.status());
    let (before, keeper) = (owner.versions(&bucket, PREFIX).await.len(), &house.stores["keeper"]);
    let (tried, _, renewed) = house.tried_renewing(Role::Keeper, keeper).await;
    assert!(tried.iter().all(|at| at.delete == Permitted::Yes), "{tried:?}");
    assert_eq!(tried[0].create, Permitted::No, "{tried:?}");
    assert!(renewed.len() <= 1 && renewed.iter().all(|name| name.ends_with(".open")), "{renewed:?}");
    let versions = owner.versions(&bucket, PREFIX).await.len();
    assert_eq!(versions - before, renewed.len(), "and no more is tried on such a store");
    let marks = || async { owner.deletions(&bucket, PREFIX).await };
    let names: BTreeSet<String> = marks().await.into_iter().map(|(name, _)| name).collect();
    let expected = tried.iter().map(|at| format!("{PREFIX}/{}whoami", at.place)).collect::<BTreeSet<_>>();
    assert_eq!(names, expected);
    house.tried_renewing(Role::Backup, &house.stores["backup"]).await;
    assert_eq!(marks().await.len(), 4, "who may not delete leaves no mark");
}

#[tokio::test]
async fn on_s3_with_iam_each_role_does_its_work_and_nothing_else() {
    let Some(owner) = S3::on_moto_with_iam() else { return };
    let bucket = fresh("iam");
    owner.enforce_iam_after(u32::MAX).await;
    owner.create_bucket(&bucket).await;
    let admin = owner
        .iam_user(
            &fresh("owner"),
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#,
        )
        .await;
    let whole = Store::open(&admin.config(&bucket, PREFIX)).expect("a store");
    let mut accounts = BTreeMap::new();
    for role in ROLES {
        let user = [(role, fresh(role.name()))];
        let text =
            policy::render(Provider::Aws, &bucket_of(&whole), &default_project(), &user).expect("a policy");
        accounts.insert(role.name(), owner.iam_user(&user[0].1, &text).await);
    }
    owner.enforce_iam_after(0).await;
    let house = House::new(whole, |role| {
        Store::open(&accounts[role.name()].config(&bucket, PREFIX)).expect("a store")
    })
    .await;
    house.week().await;
    house.judged().await;
    house.told().await;
    // moto looks at actions and resources, and at no condition.
    house.matrix(Enforces { places: true, listings: false, create_only: false }).await;
}

#[tokio::test]
async fn on_azure_each_role_has_the_verbs_that_it_needs_and_no_others() {
    let Some(endpoint) = crate::support::server("CUTTLE_TEST_AZURITE") else { return };
    let container = fresh("sas");
    create_azurite_container(&endpoint, &container).await;
    let whole = Store::open(&azurite_config(&endpoint, &container, PREFIX)).expect("a store");
    let text = policy::render(
        Provider::Azure,
        &bucket_of(&whole),
        &default_project(),
        &ROLES.map(|role| (role, format!("cuttle-{role}"))),
    )
    .expect("a policy");
    // The letters that are printed for each role, in the order of the roles.
    let letters: Vec<&str> =
        text.split("--permissions ").skip(1).map(|rest| rest.split(' ').next().expect("letters")).collect();
    assert_eq!(letters, ["rcl", "rcl", "rcdl"]);
    let house = House::new(whole, |role| {
        let letters = letters[ROLES.iter().position(|of| *of == role).expect("a role")];
        Store::open(&azurite_sas_config(&endpoint, &container, PREFIX, letters)).expect("a store")
    })
    .await;
    house.week().await;
    // Who may create and not replace is refused alike where something is.
    for role in ROLES {
        let (tried, judged) = house.tried(role, &house.stores[role.name()]).await;
        let deletes = if role == Role::Keeper { Permitted::Yes } else { Permitted::No };
        assert!(tried.iter().all(|at| at.delete == deletes), "{role}: {tried:?}");
        assert!(tried.iter().all(|at| matches!(at.create, Permitted::Unknown(_))), "{role}: {tried:?}");
        assert_eq!(judged.verdict, Verdict::Unknown, "{role}");
    }
    let (tried, judged) = house.tried(Role::Backup, &house.owner).await;
    assert_eq!(judged.verdict, Verdict::TooMuch);
    assert!(tried.iter().all(|at| at.create == Permitted::Yes), "{tried:?}");
    house.matrix(Enforces { places: false, listings: true, create_only: true }).await;
}
