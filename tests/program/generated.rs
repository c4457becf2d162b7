//! The manual page and the completions match the options and the packages. `ACCEPT=1 cargo test
//! --test program` writes them.

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use multipath_exporter::cli::Cli;

use super::golden::assert_file;

const PROGRAM: &str = "multipath_exporter";

/// Facts that an administrator needs beside the options.
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
        // Readers expect a single list.
        .mut_args(|option| option.help_heading(None));
    // Section 8, like multipath and multipathd: a daemon for administrators. The date stays empty
    // but keeps its position, because the next argument would take its place.
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
