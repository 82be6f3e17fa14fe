//! What one setting of a provider may hold. A value is checked before object_store sees it, which takes what it is given for
//! granted: a line end in a key, or an address without a scheme, would end the program.

use url::Url;

use crate::error::{Error, Result};

/// How a value is to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Printable ASCII without spaces: keys, tokens, switches.
    Word,
    /// What becomes part of a host name.
    Label,
    /// Anything on one line: paths, times, lists.
    Line,
    /// Several lines: JSON, PEM.
    Text,
    /// An address with its scheme.
    Address,
    /// The path of an address.
    Path,
}

/// One setting: its canonical name, and how the user gave it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    /// object_store's name: small letters, underscores.
    pub(super) name: &'a str,
    /// A variable's name, or `-o NAME`.
    pub(super) given: &'a str,
}

impl Setting<'_> {
    /// Whether whoever knows the value may use the store, so that it does not belong where every user of the machine sees it.
    pub(super) fn is_secret(self, value: &str) -> bool {
        let credentials = || Url::parse(value).is_ok_and(|url| url.password().is_some());
        match self.name {
            "aws_secret_access_key" | "aws_session_token" | "aws_sse_customer_key_base64" => true,
            "google_service_account_key" | "google_bearer_token" => true,
            "azure_storage_account_key" | "azure_storage_client_secret" | "azure_storage_sas_key" => true,
            "azure_storage_token" | "azure_fabric_session_token" | "azure_storage_encryption_key" => true,
            _ => self.form() == Form::Address && credentials(),
        }
    }

    /// The value as it is to be used: without space around it, `None` for an empty one. Never tells what may be secret.
    pub(super) fn value(self, value: &str) -> Result<Option<String>> {
        let value = value.trim_start_matches('\u{feff}').trim();
        if value.is_empty() {
            return Ok(None);
        }
        let form = self.form();
        let wrong = |expected: &str| Err(Error::invalid(format!("{}: expected {expected}", self.given)));
        let printable = |c: char| c.is_ascii_graphic();
        match form {
            Form::Word if !value.chars().all(printable) => {
                wrong("plain characters, without spaces or line ends")
            }
            Form::Label if !value.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) => {
                wrong("letters, digits, '-', '.' and '_'")
            }
            Form::Line if value.chars().any(char::is_control) => wrong("one line"),
            Form::Path if !value.starts_with('/') || !value.chars().all(printable) => {
                wrong("the path of an address, such as /v2/credentials")
            }
            Form::Address => self.address(value).map(Some),
            _ => Ok(Some(value.to_owned())),
        }
    }

    fn address(self, value: &str) -> Result<String> {
        let wrong = |why: &str| {
            let shown = if value.contains('@') { String::new() } else { format!(" {value:?}") };
            Error::invalid(format!("{}{shown}: {why}", self.given))
        };
        let Some((scheme, _)) = value.split_once("://") else {
            return Err(wrong("expected an address with its scheme").help(
                "write https:// before it, or http:// for one without TLS (which has to be allowed as well)",
            ));
        };
        let url = Url::parse(value).map_err(|e| wrong(&e.to_string()))?;
        let proxy = self.name == "proxy_url";
        if !proxy && !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(wrong("expected http:// or https://"));
        }
        if !proxy && (!url.username().is_empty() || url.password().is_some() || url.fragment().is_some()) {
            return Err(wrong("expected an address without a user, a password or a fragment in it"));
        }
        // What url mends, http does not.
        if url.host_str().is_none_or(str::is_empty) || value.parse::<http::Uri>().is_err() {
            return Err(wrong("it is no address of a host"));
        }
        Ok(if url.path() == "/" && url.query().is_none() { value.trim_end_matches('/') } else { value }
            .to_owned())
    }

    fn form(self) -> Form {
        match self.name {
            "aws_region" | "aws_default_region" | "azure_storage_account_name" => Form::Label,
            "aws_endpoint" | "aws_endpoint_url_s3" | "aws_endpoint_url_sts" | "aws_metadata_endpoint" => {
                Form::Address
            }
            "aws_container_credentials_full_uri" | "google_base_url" | "proxy_url" => Form::Address,
            "azure_storage_endpoint" | "azure_msi_endpoint" | "azure_storage_authority_host" => Form::Address,
            "azure_fabric_token_service_url" => Form::Address,
            "aws_container_credentials_relative_uri" => Form::Path,
            "google_service_account_key" | "proxy_ca_certificate" => Form::Text,
            "google_service_account" | "google_application_credentials" => Form::Line,
            "user_agent" | "proxy_excludes" | "aws_role_session_name" => Form::Line,
            name if name.ends_with("_file") || name.ends_with("_timeout") || name == "timeout" => Form::Line,
            name if name.ends_with("_interval") => Form::Line,
            _ => Form::Word,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Setting;

    #[test]
    fn values_are_trimmed_and_checked() {
        for (name, value, expected) in [
            ("aws_access_key_id", "AK\n", Some("AK")),
            ("aws_access_key_id", "\u{feff}AK", Some("AK")),
            ("aws_access_key_id", " \n", None),
            ("aws_endpoint", "", None),
            ("aws_endpoint", "http://h:1/\n", Some("http://h:1")),
            ("aws_endpoint", "https://h/s3", Some("https://h/s3")),
            ("aws_region", " eu-west-1", Some("eu-west-1")),
            ("google_service_account_key", "{\n}\n", Some("{\n}")),
            ("aws_web_identity_token_file", "/a b", Some("/a b")),
            ("connect_timeout", "1 min 30 s", Some("1 min 30 s")),
            ("proxy_url", "http://u:p@h:1", Some("http://u:p@h:1")),
            ("aws_container_credentials_full_uri", "http://h/x?y=z", Some("http://h/x?y=z")),
        ] {
            let found =
                Setting { name, given: "X" }.value(value).unwrap_or_else(|e| panic!("{value:?}: {e}"));
            assert_eq!(found.as_deref(), expected, "{name}={value:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_secrets_are_not_told() {
        for (name, value) in [
            ("aws_access_key_id", "A\nK"),
            ("aws_secret_access_key", "HUNTER2 é"),
            ("azure_storage_sas_key", "sig=HUNTER2\r\nX: y"),
            ("aws_endpoint", "rgw.example.com"),
            ("aws_endpoint", "//rgw.example.com"),
            ("aws_endpoint", "ftp://h"),
            ("aws_endpoint", "http://"),
            ("aws_endpoint", "http://h:99999"),
            ("aws_endpoint", "http://a b"),
            ("aws_endpoint", "http:\\\\h"),
            ("aws_endpoint", "https://u:HUNTER2@h"),
            ("google_base_url", "storage.googleapis.com"),
            ("azure_storage_endpoint", "https://h#x"),
            ("aws_region", "eu west"),
            ("aws_region", "a/b"),
            ("azure_storage_account_name", "a@b"),
            ("aws_container_credentials_relative_uri", "x"),
            ("user_agent", "a\nb"),
        ] {
            let error = Setting { name, given: "THE_NAME" }.value(value).expect_err(value);
            assert!(error.message().starts_with("THE_NAME"), "{error}");
            assert!(!format!("{error:?}").contains("HUNTER2"), "{error:?}");
        }
    }
}
