//! Bindings of Google's IAM with conditions, as commands. The bucket needs uniform access.

use super::{Bucket, Verb, needs, places};
use crate::format::role::Role;
use crate::units::ProjectName;

/// Google has no role that removes and does nothing else.
const DELETER: &str =
    "gcloud iam roles create cuttleDeleter --project=PROJECT --permissions=storage.objects.delete\n";

pub(super) fn render(bucket: &Bucket, project: &ProjectName, users: &[(Role, String)]) -> String {
    let mut out = String::new();
    let deletes = |role: &Role| needs(*role, project).iter().any(|need| need.verbs.contains(&Verb::Delete));
    if users.iter().any(|(role, _)| deletes(role)) {
        out.push_str(DELETER);
    }
    for (role, user) in users {
        let needs = needs(*role, project);
        for (verb, granted) in [
            (Verb::Get, "roles/storage.objectViewer"),
            (Verb::Create, "roles/storage.objectCreator"),
            (Verb::Delete, "projects/PROJECT/roles/cuttleDeleter"),
        ] {
            let mut terms: Vec<String> = places(&needs, bucket, verb)
                .iter()
                .map(|(place, is_prefix)| {
                    let name = format!("projects/_/buckets/{}/objects/{place}", bucket.name);
                    if *is_prefix {
                        format!("resource.name.startsWith(\"{name}\")")
                    } else {
                        format!("resource.name == \"{name}\"")
                    }
                })
                .collect();
            if verb == Verb::Get {
                let prefix = "api.getAttribute(\"storage.googleapis.com/objectListPrefix\", \"\")";
                let listed = places(&needs, bucket, Verb::List);
                terms.extend(listed.iter().map(|(place, _)| format!("{prefix}.startsWith(\"{place}\")")));
            }
            if terms.is_empty() {
                continue;
            }
            let expression = terms.join(" || ");
            let verb = format!("{verb:?}").to_lowercase();
            out.push_str(&format!(
                "gcloud storage buckets add-iam-policy-binding gs://{} \\\n  --member='serviceAccount:{user}@PROJECT.iam.gserviceaccount.com' --role='{granted}' \\\n  --condition='title=cuttle-{role}-{verb},expression={expression}'\n",
                bucket.name
            ));
        }
    }
    out.trim_end().to_owned()
}
