//! `cuttle policy`: what the store must allow each role, in the provider's own words.

use clap::ValueEnum;
use serde::Serialize;

use cuttle::format::role::Role;
use cuttle::policy::{self, Bucket, Provider};
use cuttle::{Error, Result};

use super::connect::{project_name, store_config};
use super::report::Report;
use super::role::RoleName;
use super::{Context, Exit};

const EXAMPLES: &str = "\
A key decides what a host can read and decide (`cuttle key add --role`), a policy what it can do in the bucket. The place of both is
docs/roles.md. Neither the repository nor its password is needed.

Examples:
  cuttle policy --role backup --for aws > backup.json        then: aws iam put-user-policy --user-name host-7 \\
                                                               --policy-name cuttle --policy-document file://backup.json
  cuttle policy --role backup --role restore --role keeper --for rgw > policy.json
                                                             then: aws s3api put-bucket-policy --bucket BUCKET --policy file://policy.json
  cuttle policy --role backup=host-7 --role backup=host-8 --for gcs
  cuttle --project tenant-a policy --role admin --for azure";

/// Print the store policy that a role needs
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Which role, and the name of its account [default: cuttle-ROLE]; may be given several times
    #[arg(long = "role", value_name = "ROLE[=USER]", required = true, value_parser = role)]
    roles: Vec<(Role, String)>,
    /// Whose store it is
    #[arg(long = "for", value_name = "PROVIDER", value_enum)]
    provider: ProviderName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProviderName {
    Aws,
    Rgw,
    Gcs,
    Azure,
}

#[derive(Serialize)]
struct Printed {
    policy: String,
}

impl Report for Printed {
    const MESSAGE_TYPE: &'static str = "policy";

    fn summary(&self) -> String {
        self.policy.clone()
    }
}

fn role(given: &str) -> std::result::Result<(Role, String), String> {
    let (name, user) = given.split_once('=').map_or((given, None), |(name, user)| (name, Some(user)));
    let role: Role = RoleName::from_str(name, false)?.into();
    match user {
        Some("") => Err("the account after = is empty".to_owned()),
        Some(user) if !user.chars().all(|c| c.is_ascii_alphanumeric() || "._@+-".contains(c)) => {
            Err(format!("{user:?} is no account's name"))
        }
        Some(user) => Ok((role, user.to_owned())),
        None => Ok((role, format!("cuttle-{role}"))),
    }
}

pub fn run(context: &Context<'_>, args: &Args) -> Result<Exit> {
    let bucket: Bucket = store_config(context)?.url.parse()?;
    let provider = match args.provider {
        ProviderName::Aws => Provider::Aws,
        ProviderName::Rgw => Provider::Rgw,
        ProviderName::Gcs => Provider::Gcs,
        ProviderName::Azure => Provider::Azure,
    };
    if provider == Provider::Aws && args.roles.len() > 1 {
        return Err(Error::invalid("--for aws makes the policy of one user, several roles are given")
            .help("run it for each role, and give each user his own"));
    }
    let policy = policy::render(provider, &bucket, &project_name(context)?, &args.roles)?;
    context.ui.report(&Printed { policy })?;
    Ok(Exit::Success)
}
