//! Custom roles and assignments with conditions of Entra ID, as commands; and the rights of a SAS, which has no prefixes.

use super::{Bucket, Verb, needs, places};
use crate::format::role::Role;
use crate::units::ProjectName;

const BLOBS: &str = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs";

pub(super) fn render(bucket: &Bucket, project: &ProjectName, users: &[(Role, String)]) -> String {
    let mut out = format!(
        "SCOPE=/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.Storage/storageAccounts/ACCOUNT/blobServices/default/containers/{}\n",
        bucket.name
    );
    for (role, user) in users {
        let needs = needs(*role, project);
        let has = |verb| needs.iter().any(|need| need.verbs.contains(&verb));
        let mut actions = vec![(Verb::Get, format!("{BLOBS}/read"))];
        if has(Verb::Create) {
            // A put that must find nothing needs no more than to add.
            actions.push((Verb::Create, format!("{BLOBS}/add/action")));
        }
        if has(Verb::Replace) {
            actions.push((Verb::Replace, format!("{BLOBS}/write")));
        }
        if has(Verb::Delete) {
            actions.push((Verb::Delete, format!("{BLOBS}/delete")));
        }
        let listed: Vec<String> = actions.iter().map(|(_, action)| format!("\"{action}\"")).collect();
        let conditions: Vec<String> =
            actions
                .iter()
                .map(|(verb, action)| {
                    let mut terms: Vec<String> = places(&needs, bucket, *verb)
                        .iter()
                        .map(|(place, is_prefix)| {
                            let how = if *is_prefix { "StringStartsWith" } else { "StringEquals" };
                            format!("@Resource[{BLOBS}:path] {how} '{place}'")
                        })
                        .collect();
                    if *verb == Verb::Get {
                        let listed = places(&needs, bucket, Verb::List);
                        terms.extend(listed.iter().map(|(place, _)| {
                            format!("@Request[{BLOBS}:prefix] StringStartsWith '{place}'")
                        }));
                    }
                    format!("(!(ActionMatches{{'{action}'}}) OR ({}))", terms.join(" OR "))
                })
                .collect();
        out.push_str(&format!(
            "az role definition create --role-definition '{{\"Name\": \"cuttle {role}\", \"IsCustom\": true, \"Actions\": [], \"DataActions\": [{}], \"AssignableScopes\": [\"/subscriptions/SUBSCRIPTION\"]}}'\naz role assignment create --role 'cuttle {role}' --assignee '{user}' --scope \"$SCOPE\" --condition-version 2.0 \\\n  --condition \"{}\"\n",
            listed.join(", "),
            conditions.join(" AND "),
        ));
        out.push_str(&format!(
            "# Or a SAS, for all of the container: a host that has it can plant objects anywhere, which nobody obeys.\naz storage container generate-sas --account-name ACCOUNT --name {} --permissions {} --expiry 2030-01-01 -o tsv\n",
            bucket.name,
            sas_permissions(*role, project),
        ));
    }
    out.trim_end().to_owned()
}

/// The letters of a container's SAS that a role needs, in Azure's order.
pub(super) fn sas_permissions(role: Role, project: &ProjectName) -> String {
    let needs = needs(role, project);
    let letters =
        [(Verb::Get, 'r'), (Verb::Create, 'c'), (Verb::Replace, 'w'), (Verb::Delete, 'd'), (Verb::List, 'l')];
    let has = |verb: &Verb| needs.iter().any(|need| need.verbs.contains(verb));
    letters.iter().filter(|(verb, _)| has(verb)).map(|(_, letter)| letter).collect()
}
