//! `--config.check`: reports that the configuration files are correct, and warns of surprises in
//! them.

use std::io::{self, Write};

use super::{Failure, print};
use crate::cli::Cli;
use crate::web_config::WebConfig;

/// Prints the result. Both files have been read before.
pub fn check(cli: &Cli, web_config: &WebConfig) -> Result<(), Failure> {
    let web_config_file = cli.web.config_file.as_deref();
    if let Some(file) = web_config_file {
        for warning in web_config.warnings() {
            let _ = writeln!(io::stderr(), "multipath_exporter: {}: warning: {warning}", file.display());
        }
    }
    let files = [cli.general.config_file.as_deref(), web_config_file].into_iter().flatten();
    print(&files.map(|file| format!("{}: correct\n", file.display())).collect::<String>())
}
