//! What is made from the command line itself: docs/options.md, and what packages ship beside the program. `cargo xtask pages`
//! runs this with the variables below set; the program has no code for it.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use clap_complete::{Shell, generate_to};

use crate::cli::command;
use crate::cli::environment::VARIABLES;

/// Set, docs/options.md is written anew.
const RENEW: &str = "CUTTLE_RENEW";
/// The folder where manual pages and completions are to go.
const SHIPPED: &str = "CUTTLE_SHIPPED";

const HEAD: &str = "\
# Options: every option, its variable and its default

For whoever looks one up. Made from the program's own table by `cargo xtask pages`; what it says at length is in `cuttle backup --help` and its like.

An option goes before its variable, a variable before the default. An option that takes no value is off unless it is given. What several may say (a password, say) only one of them may say.
";

/// One option, wherever it is said. Its name is its long flag without the dashes, and what it will be called in a file.
struct Row {
    flags: String,
    variables: Vec<&'static str>,
    default: Option<String>,
    help: String,
}

impl Row {
    fn of(arg: &Arg) -> Self {
        let values = match (arg.get_action(), arg.get_value_names()) {
            (ArgAction::Set | ArgAction::Append, Some(names)) => names.join(" "),
            _ => String::new(),
        };
        let mut flags: Vec<String> = Vec::new();
        flags.extend(arg.get_short().map(|short| format!("-{short}")));
        flags.extend(arg.get_long().map(|long| format!("--{long}")));
        let flags = match arg.is_positional() {
            true => values,
            false => format!("{} {values}", flags.join(", ")).trim_end().to_owned(),
        };
        let variables: Vec<_> =
            VARIABLES.iter().filter(|v| v.option == Some(arg.get_id().as_str())).collect();
        let (help, said) = said_default(&arg.get_help().map(ToString::to_string).unwrap_or_default());
        let of_clap: Vec<_> = arg.get_default_values().iter().filter_map(|v| v.to_str()).collect();
        let is_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        let default = said.or_else(|| (is_value && !of_clap.is_empty()).then(|| of_clap.join(", ")));
        let one_of: Vec<_> = arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
        let help = match is_value && !one_of.is_empty() {
            true => format!("{help}: {}", one_of.join(", ")),
            false => help,
        };
        Self { flags, variables: variables.iter().map(|v| v.name).collect(), default, help }
    }

    fn line(&self) -> String {
        let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
        let variables: Vec<_> = self.variables.iter().map(|v| code(v)).collect();
        let default = self.default.as_deref().unwrap_or_default();
        let help = self.help.replace('|', "\\|").replace('<', "&lt;");
        format!("| {} | {} | {default} | {help} |\n", code(&self.flags), variables.join(", "))
    }
}

/// A help text, and the default that it says in words: `… [default: the host's name]`. What it says of variables has its own column.
fn said_default(help: &str) -> (String, Option<String>) {
    let (mut text, mut default) = (String::new(), None);
    for (at, part) in help.split('[').enumerate() {
        match part.split_once(']') {
            _ if at == 0 => text += part,
            Some((said, rest)) if said.starts_with("default") => {
                default = said.split_once(": ").map(|(_, said)| said.to_owned());
                text += rest;
            }
            Some((said, rest)) if said.starts_with("env: ") => text += rest,
            _ => text += &format!("[{part}"),
        }
    }
    (text.split_whitespace().collect::<Vec<_>>().join(" "), default)
}

fn table(args: &[&Arg]) -> String {
    let lines: String = args.iter().map(|arg| Row::of(arg).line()).collect();
    format!("\n| option | variable | default | what it is |\n|---|---|---|---|\n{lines}")
}

/// Commands that do something, with their names: `key add`.
fn commands<'a>(command: &'a Command, above: &str, out: &mut Vec<(String, &'a Command)>) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = format!("{above} {}", sub.get_name());
        match sub.has_subcommands() {
            true => commands(sub, &name, out),
            false => out.push((name, sub)),
        }
    }
}

fn is_own(arg: &&Arg) -> bool {
    !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version")
}

fn page() -> String {
    let command = command();
    let mut page = HEAD.to_owned();
    page += "\n## Every command\n";
    let global: Vec<&Arg> = command.get_arguments().filter(is_own).collect();
    let mut headings: Vec<&str> = Vec::new();
    for heading in global.iter().filter_map(|arg| arg.get_help_heading()) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        let of: Vec<&Arg> =
            global.iter().filter(|arg| arg.get_help_heading() == Some(heading)).copied().collect();
        page += &format!("\n{heading}:\n{}", table(&of));
    }
    page += "\nVariables without an option:\n\n| variable | what it says |\n|---|---|\n";
    for variable in VARIABLES.iter().filter(|v| v.option.is_none()) {
        page += &format!("| `{}` | {} |\n", variable.name, variable.help);
    }
    let mut all = Vec::new();
    commands(&command, "cuttle", &mut all);
    for (name, command) in all {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        page += &format!("\n## {name}\n\n{about}.\n");
        let own: Vec<&Arg> =
            command.get_arguments().filter(|arg| !arg.is_global_set()).filter(is_own).collect();
        if !own.is_empty() {
            page += &table(&own);
        }
    }
    page
}

#[test]
fn the_page_about_options_is_what_the_program_takes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/options.md");
    let page = page();
    if std::env::var_os(RENEW).is_some() {
        fs::write(&path, &page).expect("write the page");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/options.md is not what the program takes: cargo xtask pages");
}

#[test]
fn every_variable_stands_for_an_option_that_is_there_and_is_told_of() {
    let mut command = command();
    let help = command.render_long_help().to_string();
    for variable in VARIABLES {
        if let Some(option) = variable.option {
            let arg = command.get_arguments().find(|arg| arg.get_id() == option).expect(variable.name);
            assert!(arg.get_help().expect("help").to_string().contains(variable.name), "{}", variable.name);
        }
        assert!(help.contains(variable.name), "cuttle --help does not name {}", variable.name);
    }
}

#[test]
fn manual_pages_and_completions_are_made() {
    let scratch = tempfile::tempdir().expect("a folder");
    let folder = std::env::var_os(SHIPPED).map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&man, &completions] {
        fs::create_dir_all(folder).expect("a folder");
    }
    clap_mangen::generate_to(command(), &man).expect("manual pages");
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command(), "cuttle", &completions).expect("completions");
    }
    let command = command();
    let mut all = vec![("cuttle".to_owned(), &command)];
    commands(&command, "cuttle", &mut all);
    for (name, _) in all {
        let path = man.join(format!("{}.1", name.replace(' ', "-")));
        let text = fs::read_to_string(&path).expect("a page");
        // Its parent has the examples of `cuttle key add`.
        let has_examples = name.matches(' ').count() > 1 || text.contains("Examples:");
        assert!(text.contains(".TH") && has_examples, "{}", path.display());
    }
}
