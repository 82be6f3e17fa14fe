//! What each role needs of the store, and the policies that give it that and no more.
//!
//! A pure value: from role, project and place to the text that an operator applies. What a policy cannot say, the signatures hold all the same
//! (repo-format.md §4, sealing 2). What the credentials at hand permit is tried in [`credentials`], and held against it.

mod aws;
mod azure;
pub mod credentials;
mod gcs;

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::format::role::Role;
use crate::units::ProjectName;

/// What may be done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Read it, and ask for it.
    Get,
    /// See its name.
    List,
    /// Put it where nothing is.
    Create,
    /// Put it, whatever is there.
    Replace,
    /// Remove it.
    Delete,
}

/// What a role needs of some objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Relative to the repository's prefix: a name, or what names begin with where it ends with a slash.
    pub place: String,
    /// Ascending.
    pub verbs: &'static [Verb],
}

/// Whose policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// An IAM policy of Amazon's S3, and of what speaks its dialect.
    Aws,
    /// A bucket policy of Ceph's RGW.
    Rgw,
    /// Commands for Google Cloud Storage.
    Gcs,
    /// Commands for Azure's blobs.
    Azure,
}

/// The bucket or container, and the repository's prefix in it without slashes around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Empty where the repository is all of it.
    pub prefix: String,
}

const READ: &[Verb] = &[Verb::Get];
const LOOK: &[Verb] = &[Verb::Get, Verb::List];
const ADD: &[Verb] = &[Verb::Get, Verb::List, Verb::Create];
const CLEAR: &[Verb] = &[Verb::Get, Verb::List, Verb::Delete];
const RULE: &[Verb] = &[Verb::Get, Verb::List, Verb::Create, Verb::Delete];
const ALL: &[Verb] = &[Verb::Get, Verb::List, Verb::Create, Verb::Replace, Verb::Delete];

/// What a role needs, to do what it is for and nothing else.
pub fn needs(role: Role, project: &ProjectName) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut need = |verbs: &'static [Verb], places: &[&str]| {
        needs.extend(places.iter().map(|place| Need { place: (*place).to_owned(), verbs }));
    };
    need(READ, &["repository"]);
    need(LOOK, &["keys/"]);
    let of =
        |names: &[&str]| names.iter().map(|name| format!("projects/{project}/{name}")).collect::<Vec<_>>();
    let mut within = |verbs: &'static [Verb], names: &[&str]| {
        let places = of(names);
        need(verbs, &places.iter().map(String::as_str).collect::<Vec<_>>());
    };
    match role {
        Role::Backup => {
            within(READ, &["project"]);
            within(LOOK, &["keys/", "retention/", "gc/"]);
            within(ADD, &["volumes/", "log/", "chunks/", "bundles/", "pages/", "lost/"]);
        }
        Role::Restore => {
            within(READ, &["project"]);
            within(LOOK, &["keys/", "retention/", "gc/"]);
            within(LOOK, &["volumes/", "log/", "chunks/", "bundles/", "pages/"]);
            // What verify finds lost, backups store again.
            within(ADD, &["lost/"]);
        }
        Role::Keeper => {
            within(READ, &["project"]);
            within(LOOK, &["keys/"]);
            within(CLEAR, &["volumes/", "chunks/", "bundles/", "pages/"]);
            within(RULE, &["log/", "retention/", "gc/", "lost/", "reserve/"]);
            need(RULE, &["quarantine/", "probe/"]);
        }
        Role::Admin => {
            within(ALL, &[""]);
            need(RULE, &["quarantine/", "probe/"]);
        }
    }
    needs
}

/// What an operator applies, so that the stores of these roles are given what they need. `users` names the account of each role.
pub fn render(
    provider: Provider,
    bucket: &Bucket,
    project: &ProjectName,
    users: &[(Role, String)],
) -> Result<String> {
    match provider {
        Provider::Aws | Provider::Rgw => aws::render(provider == Provider::Rgw, bucket, project, users),
        Provider::Gcs => Ok(gcs::render(bucket, project, users)),
        Provider::Azure => Ok(azure::render(bucket, project, users)),
    }
}

impl Bucket {
    /// The name or prefix of objects in the bucket.
    fn at(&self, place: &str) -> String {
        if self.prefix.is_empty() { place.to_owned() } else { format!("{}/{place}", self.prefix) }
    }
}

impl FromStr for Bucket {
    type Err = Error;

    /// Of a repository's address: `s3://BUCKET/PREFIX`, `gs://…`, `az://…`.
    fn from_str(address: &str) -> Result<Self> {
        let rest = address.split_once("://").filter(|(scheme, _)| *scheme != "file").map(|(_, rest)| rest);
        let rest = rest.filter(|rest| !rest.is_empty()).ok_or_else(|| {
            Error::unsupported(format!("{address} is no bucket: policies are for those")).help(
                "for folders, use the file system's own rights; name a bucket with -r s3://BUCKET/PREFIX",
            )
        })?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        Ok(Self { name: name.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }
}

impl Need {
    fn is_prefix(&self) -> bool {
        self.place.ends_with('/')
    }

    /// Whether it is of an object, or of all below a place.
    fn covers(&self, place: &str) -> bool {
        if self.is_prefix() { place.starts_with(&self.place) } else { place == self.place }
    }
}

/// The places of those that need a verb, in the bucket.
fn places(needs: &[Need], bucket: &Bucket, verb: Verb) -> Vec<(String, bool)> {
    needs
        .iter()
        .filter(|need| need.verbs.contains(&verb))
        .map(|need| (bucket.at(&need.place), need.is_prefix()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> Bucket {
        "s3://backups/ceph/".parse().expect("a bucket")
    }

    #[test]
    fn an_address_names_bucket_and_prefix() {
        assert_eq!(bucket(), Bucket { name: "backups".into(), prefix: "ceph".into() });
        let whole: Bucket = "gs://b".parse().expect("a bucket");
        assert_eq!((whole.name.as_str(), whole.at("log/").as_str()), ("b", "log/"));
        for folder in ["/srv/backups", "file:///srv", "s3://"] {
            assert!(folder.parse::<Bucket>().is_err(), "{folder}");
        }
    }

    /// The table of docs/roles.md, in short: nobody but the keeper removes or decides, and he creates no content.
    #[test]
    fn a_role_gets_what_it_is_for() {
        let project: ProjectName = "p".parse().expect("a name");
        let may = |role: Role, verb: Verb, name: &str| {
            needs(role, &project).iter().any(|need| need.covers(name) && need.verbs.contains(&verb))
        };
        let chunk = "projects/p/chunks/0000000000/aa/x";
        let forget = "projects/p/retention/0000000001/0000000001.forget";
        let round = "projects/p/gc/0000000001.begin";
        for (role, creates, deletes, decides) in [
            (Role::Backup, true, false, false),
            (Role::Restore, false, false, false),
            (Role::Keeper, false, true, true),
            (Role::Admin, true, true, true),
        ] {
            assert!(may(role, Verb::Get, chunk) && may(role, Verb::Get, "repository"), "{role}");
            assert_eq!(may(role, Verb::Create, chunk), creates, "{role}");
            assert_eq!(may(role, Verb::Delete, chunk), deletes, "{role}");
            for name in [forget, round] {
                assert_eq!(may(role, Verb::Create, name), decides, "{role} {name}");
                assert_eq!(may(role, Verb::Delete, name), decides, "{role} {name}");
            }
            assert_eq!(may(role, Verb::Replace, chunk), role == Role::Admin, "{role}");
            for verb in [Verb::Create, Verb::Replace, Verb::Delete] {
                assert!(!may(role, verb, "repository") && !may(role, verb, "keys/00"), "{role}");
                assert!(!may(role, verb, "projects/q/log/0000000001/0000000001.end"), "{role}");
                assert_eq!(may(role, verb, "projects/p/keys/00"), role == Role::Admin, "{role}");
            }
            assert!(!may(role, Verb::Get, "projects/q/volumes/0000000001"), "{role}");
        }
    }

    #[test]
    fn each_provider_is_told_in_its_own_words() {
        let project: ProjectName = "p".parse().expect("a name");
        let users: Vec<(Role, String)> =
            Role::ALL.iter().map(|role| (*role, format!("cuttle-{role}"))).collect();
        let text = |provider| render(provider, &bucket(), &project, &users).expect("rendered");
        let (aws, rgw) = (text(Provider::Aws), text(Provider::Rgw));
        for json in [&aws, &rgw] {
            serde_json::from_str::<serde_json::Value>(json).expect("JSON");
            assert!(json.contains("arn:aws:s3:::backups/ceph/projects/p/retention/*"), "{json}");
        }
        assert!(aws.contains("s3:if-none-match") && !aws.contains("Principal"), "{aws}");
        assert!(rgw.contains("arn:aws:iam:::user/cuttle-backup") && !rgw.contains("none-match"), "{rgw}");
        assert!(text(Provider::Gcs).contains("projects/_/buckets/backups/objects/ceph/projects/p/gc/"));
        assert!(text(Provider::Azure).contains("StringStartsWith 'ceph/projects/p/gc/'"));
    }
}
