//! What is made of the options: manual page and completions, as the packages install them. `ACCEPT=1 cargo test --test
//! program` writes them anew.

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use multipath_exporter::cli::Cli;

use super::golden::assert_file;

const PROGRAM: &str = "multipath_exporter";

/// What an administrator needs beyond the options.
const SECTIONS: &str = include_str!("../../deploy/man/sections.roff");

fn command() -> Command {
    Cli::command()
}

#[test]
fn the_manual_page() {
    let about = command().get_about().cloned().unwrap();
    let command = command()
        .about("Prometheus exporter for multipath storage")
        .long_about(about)
        // Readers look for one list.
        .mut_args(|option| option.help_heading(None));
    // Section 8, with its neighbours multipath and multipathd: a daemon for whoever administers the host.
    // No date, but its place: without one what follows would take it.
    let page = Man::new(command).section("8").date(" ").manual("System Administration");
    let mut text = Vec::new();
    page.render_title(&mut text).unwrap();
    page.render_name_section(&mut text).unwrap();
    text.extend_from_slice(b".SH SYNOPSIS\n\\fBmultipath_exporter\\fR [\\fIOPTION\\fR]...\n");
    page.render_description_section(&mut text).unwrap();
    page.render_options_section(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap() + SECTIONS;
    assert_file("deploy/man/multipath_exporter.8", &text);
}

#[test]
fn completions() {
    for (shell, file) in [
        (Shell::Bash, "multipath_exporter.bash"),
        (Shell::Zsh, "_multipath_exporter"),
        (Shell::Fish, "multipath_exporter.fish"),
    ] {
        let mut text = Vec::new();
        generate(shell, &mut command(), PROGRAM, &mut text);
        assert_file(&format!("deploy/completions/{file}"), &String::from_utf8(text).unwrap());
    }
}
