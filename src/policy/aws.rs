//! S3's dialect. On Amazon a policy of a user; on RGW one of the bucket, which names the users.

use serde_json::{Value, json};

use super::{Bucket, Need, Verb, needs, places};
use crate::error::{Error, Result};
use crate::format::role::Role;
use crate::units::ProjectName;

pub(super) fn render(
    is_rgw: bool,
    bucket: &Bucket,
    project: &ProjectName,
    users: &[(Role, String)],
) -> Result<String> {
    let mut statements = Vec::new();
    for (role, user) in users {
        let needs = needs(*role, project);
        let of = Statements { is_rgw, bucket, user, role: *role };
        statements.push(of.list(&needs));
        let verbs =
            [(Verb::Get, "s3:GetObject"), (Verb::Replace, "s3:PutObject"), (Verb::Delete, "s3:DeleteObject")];
        statements.extend(verbs.into_iter().filter_map(|(verb, action)| of.of(&needs, verb, action)));
        statements.extend(of.create(&needs));
    }
    let policy = json!({ "Version": "2012-10-17", "Statement": statements });
    serde_json::to_string_pretty(&policy).map_err(|e| Error::internal("a policy is no JSON").caused_by(e))
}

struct Statements<'a> {
    is_rgw: bool,
    bucket: &'a Bucket,
    user: &'a str,
    role: Role,
}

impl Statements<'_> {
    fn statement(&self, what: &str, action: &str, resources: &[String]) -> Value {
        let (role, user) = (self.role.name(), self.user);
        let mut statement = json!({
            "Sid": format!("{}{}{what}", role[..1].to_uppercase(), &role[1..]),
            "Effect": "Allow",
            "Action": action,
            "Resource": resources,
        });
        if self.is_rgw {
            statement["Principal"] = json!({ "AWS": format!("arn:aws:iam:::user/{user}") });
        }
        statement
    }

    fn arn(&self, name: &str) -> String {
        format!("arn:aws:s3:::{}/{name}", self.bucket.name)
    }

    fn of(&self, needs: &[Need], verb: Verb, action: &str) -> Option<Value> {
        let star = |is_prefix| if is_prefix { "*" } else { "" };
        let places = places(needs, self.bucket, verb);
        let resources: Vec<String> = places
            .iter()
            .map(|(place, is_prefix)| self.arn(&format!("{place}{}", star(*is_prefix))))
            .collect();
        (!resources.is_empty()).then(|| self.statement(&format!("{verb:?}"), action, &resources))
    }

    /// Listing is a right to the bucket. It also decides whether who asks for what is not there is told so, or is refused; such a request has no prefix,
    /// so the condition must let it pass.
    fn list(&self, needs: &[Need]) -> Value {
        let prefixes: Vec<String> =
            places(needs, self.bucket, Verb::List).iter().map(|(place, _)| format!("{place}*")).collect();
        let bucket = format!("arn:aws:s3:::{}", self.bucket.name);
        let mut list = self.statement("List", "s3:ListBucket", &[bucket]);
        list["Condition"] = json!({ "StringLikeIfExists": { "s3:prefix": prefixes } });
        list
    }

    /// A put that must find nothing there. RGW before 20 does not know the condition, and 20.2.4 refuses every put under it.
    fn create(&self, needs: &[Need]) -> Option<Value> {
        let only: Vec<Need> =
            needs.iter().filter(|need| !need.verbs.contains(&Verb::Replace)).cloned().collect();
        let mut create = self.of(&only, Verb::Create, "s3:PutObject")?;
        if !self.is_rgw {
            create["Condition"] = json!({ "Null": { "s3:if-none-match": "false" } });
        }
        Some(create)
    }
}
