//! `cuttle whoami`: what the key at hand can do, and what the store's credentials can.

use serde::Serialize;

use cuttle::Result;
use cuttle::format::role::Role;
use cuttle::policy::Verb;
use cuttle::policy::credentials::{self, Judged, Right, Rights, Tried, Verdict};
use cuttle::repo::Keeper;
use cuttle::store::Ledger;
use cuttle::store::permitted::Permitted;

use super::key::{WHOLE, id};
use super::report::{Report, ledger_line, lines};
use super::table::{Column, printable, table};
use super::{Context, Exit, connect};

const EXAMPLES: &str = "\
A key decides what a host can read and decide, the store's credentials what it can do in the bucket. What they can is tried, and nothing
is left: a create of an object that is there, with the bytes that it has, which whoever may create is told exists; and a delete
of a name that nothing has. A bucket that keeps versions gets a delete marker for that name, `whoami`, below each place. With -n nothing is tried.

Credentials that can more than the key's role needs are warned of: whoever breaks into the host has them, too. docs/roles.md says
what each role needs, and `cuttle policy` prints it.

Examples:
  cuttle whoami                                   on a new host, before its first backup and after it
  cuttle whoami -n                                of the key alone
  CUTTLE_KEY_FILE=host-7.key cuttle whoami        whether a key and these credentials fit
  cuttle whoami --json | jq -r .verdict           for a check by monitoring: \"too_much\" wants a look";

/// Show what the key at hand and the store's credentials can do
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {}

/// The key at hand; in a repository without encryption there is none.
#[derive(Serialize)]
struct Key {
    encrypted: bool,
    /// As `key list` says it.
    role: Option<&'static str>,
    project: Option<String>,
    key_id: Option<String>,
    label: Option<String>,
    #[serde(flatten)]
    rights: Rights,
}

/// What was tried below one place.
#[derive(Serialize)]
struct Place<'a> {
    place: &'a str,
    create: &'static str,
    delete: &'static str,
    needs_create: bool,
    needs_delete: bool,
    /// Why something is not known.
    unknown: Option<&'a str>,
}

#[derive(Serialize)]
struct Whoami<'a> {
    #[serde(flatten)]
    key: &'a Key,
    dry_run: bool,
    /// `None`: not tried.
    credentials: Option<Vec<Place<'a>>>,
    verdict: Option<Verdict>,
    ledger: &'a Ledger,
}

pub async fn run(context: &Context<'_>, _: Args) -> Result<Exit> {
    // With any key: it is asked for nothing that it may not.
    let project = connect::verifier(context).await?;
    let key = key_at_hand(&project).await?;
    let tried = match context.global.dry_run {
        true => None,
        false => Some(credentials::try_in(&project).await?),
    };
    let judged = tried.as_ref().map(|tried| credentials::judge(project.role(), project.name(), tried));
    let whoami = Whoami {
        key: &key,
        dry_run: context.global.dry_run,
        credentials: tried.as_ref().map(|tried| tried.iter().map(|at| place(&project, at)).collect()),
        verdict: judged.as_ref().map(|judged| judged.verdict),
        ledger: &project.repository().store().ledger(),
    };
    context.ui.report(&whoami)?;
    if let Some(judged) = judged {
        warn(context, &project, &judged);
    }
    Ok(Exit::Success)
}

async fn key_at_hand(project: &Keeper) -> Result<Key> {
    let repository = project.repository();
    let (encrypted, rights) = (repository.record().encrypted, credentials::rights(project.role()));
    let Some((of, role, slot)) = repository.member() else {
        let role = encrypted.then_some(WHOLE);
        return Ok(Key { encrypted, role, project: None, key_id: None, label: None, rights });
    };
    // A slot that was removed since opens nothing any more; the key at hand is what it is.
    let slots = repository.role_keys(project).await?;
    let record = slots.into_iter().find(|key| key.slot == slot).and_then(|key| key.record.ok());
    Ok(Key {
        encrypted,
        role: Some(role.name()),
        project: Some(of.to_string()),
        key_id: Some(id(slot)),
        label: record.map(|record| record.label),
        rights,
    })
}

fn place<'a>(project: &Keeper, tried: &'a Tried) -> Place<'a> {
    let needs = |verb| {
        let right = Right { place: tried.place.clone(), verb };
        credentials::is_needed(project.role(), project.name(), &right)
    };
    let unknown = [&tried.create, &tried.delete].into_iter().find_map(|permitted| match permitted {
        Permitted::Unknown(why) => Some(why.as_str()),
        Permitted::Yes | Permitted::No => None,
    });
    Place {
        place: &tried.place,
        create: word(&tried.create),
        delete: word(&tried.delete),
        needs_create: needs(Verb::Create),
        needs_delete: needs(Verb::Delete),
        unknown,
    }
}

fn word(permitted: &Permitted) -> &'static str {
    match permitted {
        Permitted::Yes => "yes",
        Permitted::No => "no",
        Permitted::Unknown(_) => "unknown",
    }
}

impl Key {
    fn told(&self) -> String {
        match (&self.project, self.role, &self.key_id) {
            (Some(project), Some(role), Some(id)) => {
                let label = self.label.as_ref().filter(|label| !label.is_empty());
                let label = label.map(|label| format!(", labeled {label:?}")).unwrap_or_default();
                format!("{id}, of the role {role} of project {project}{label}")
            }
            _ if self.encrypted => "the repository's own: it opens every project".to_owned(),
            _ => "none: nothing is encrypted, and whoever reads the store reads all of it".to_owned(),
        }
    }

    /// What it may, or may not.
    fn list(&self, may: bool) -> String {
        let Rights { makes_backups, reads_volumes, forgets, makes_keys } = self.rights;
        let all = [
            (makes_backups, "make backups"),
            (reads_volumes, "read volumes"),
            (forgets, "forget and prune"),
            (makes_keys, "make keys"),
        ];
        let words: Vec<_> = all.iter().filter(|(has, _)| *has == may).map(|(_, word)| *word).collect();
        if words.is_empty() { "-".to_owned() } else { words.join(", ") }
    }
}

impl Report for Whoami<'_> {
    const MESSAGE_TYPE: &'static str = "whoami";

    fn answer(&self) -> String {
        let key = lines([
            format!("key      {}", printable(&self.key.told())),
            format!("may      {}", self.key.list(true)),
            format!("may not  {}", self.key.list(false)),
        ]);
        let Some(places) = &self.credentials else {
            return lines([key, "The store's credentials are not tried with -n.".to_owned()]);
        };
        let columns = ["BELOW", "CREATE", "DELETE", "NEEDED"].map(Column::Text);
        let rows = places.iter().map(|at| {
            let needed = match (at.needs_create, at.needs_delete) {
                (true, true) => "create, delete",
                (true, false) => "create",
                (false, true) => "delete",
                (false, false) => "-",
            };
            [at.place, at.create, at.delete, needed].map(str::to_owned).to_vec()
        });
        let unknown = places.iter().filter_map(|at| Some(format!("{}: {}", at.place, at.unknown?)));
        [vec![key, String::new(), table(&columns, rows)], unknown.collect()].concat().join("\n")
    }

    fn summary(&self) -> String {
        let role = match self.key.role {
            Some(role) if role != WHOLE => format!("the role {role}"),
            _ => "the repository's owner".to_owned(),
        };
        let verdict = match self.verdict {
            None => String::new(),
            Some(Verdict::Fits) => format!("the credentials fit {role}"),
            Some(Verdict::Unknown) => format!("what could be tried of the credentials fits {role}"),
            Some(Verdict::TooMuch) => format!("the credentials can more than {role} needs"),
            // Whoever has the repository's key may well be given credentials that delete nothing.
            Some(Verdict::TooLittle) => format!("the credentials can less than {role} needs"),
        };
        lines([verdict, ledger_line(self.ledger)])
    }
}

/// Says what the credentials can too much; or too little, where what the key is for then fails.
fn warn(context: &Context<'_>, project: &Keeper, judged: &Judged) {
    let (role, store) = (project.role(), project.repository().store());
    if !judged.too_much.is_empty() {
        let next = match store.is_local() {
            true => {
                "a folder knows no such difference: for hosts that may be broken into use a bucket".to_owned()
            }
            false => format!(
                "give it an account with what `cuttle policy --role {role} --for {}` prints",
                provider(store.url())
            ),
        };
        context.ui.warn(&format!(
            "these credentials can more than the role {role} needs: {}. Whoever breaks into this host can do that, too; {next} (docs/roles.md)",
            told(&judged.too_much)
        ));
    }
    if !judged.too_little.is_empty() && role != Role::Admin {
        let next = match store.is_local() {
            true => "let this user write to the folder".to_owned(),
            false => {
                format!("`cuttle policy --role {role} --for {}` prints what is needed", provider(store.url()))
            }
        };
        context.ui.warn(&format!(
            "these credentials lack what the role {role} needs: {}. What it is for will fail; {next} (docs/roles.md)",
            told(&judged.too_little)
        ));
    }
}

/// `delete below projects/default/log/, projects/default/gc/`
fn told(rights: &[Right]) -> String {
    let of = |verb: Verb, word: &str| {
        let places: Vec<&str> =
            rights.iter().filter(|right| right.verb == verb).map(|right| right.place.as_str()).collect();
        (!places.is_empty()).then(|| format!("{word} below {}", places.join(", ")))
    };
    let told = [of(Verb::Delete, "delete"), of(Verb::Create, "create")];
    told.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// What `cuttle policy --for` calls whoever keeps an address.
fn provider(url: &str) -> &'static str {
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("gs") => "gcs",
        Some("az" | "azure") => "azure",
        // One protocol: the address does not tell them apart.
        _ => "aws|rgw",
    }
}
