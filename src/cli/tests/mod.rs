mod pages;

use super::Cli;
use clap::{Command, CommandFactory};

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

/// An argument with the id of a global one would silently be that one.
#[test]
fn no_argument_hides_a_global_one() {
    fn check(command: &Command, globals: &[&str]) {
        for sub in command.get_subcommands() {
            let hidden = sub.get_arguments().find(|a| globals.contains(&a.get_id().as_str()));
            assert!(hidden.is_none(), "{}: {hidden:?}", sub.get_name());
            check(sub, globals);
        }
    }
    let command = Cli::command();
    let globals: Vec<&str> =
        command.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().as_str()).collect();
    assert!(globals.contains(&"repo") && globals.len() > 15);
    check(&command, &globals);
}
