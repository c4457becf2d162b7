//! The page at `/`: one sentence, and where everything is.

use crate::topology::{Health, Snapshot};

/// The page; `snapshot` is `None` until the first full read.
pub fn html(snapshot: Option<&Snapshot>, telemetry_path: &str) -> String {
    let sentence = snapshot.map_or_else(|| "The first full read is under way.".to_owned(), sentence);
    let (version, telemetry_path) = (env!("CARGO_PKG_VERSION"), escape(telemetry_path));
    format!(
        "<!doctype html>\n\
         <html lang=\"en\">\n\
         <head>\n\
         <meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>multipath_exporter</title>\n\
         </head>\n\
         <body>\n\
         <h1>multipath_exporter</h1>\n\
         <p><strong>{sentence}</strong></p>\n\
         <ul>\n\
         <li><a href=\"{telemetry_path}\">Metrics</a>, for Prometheus</li>\n\
         <li><a href=\"/api/v1/multipath-health\">Devices with failed paths or without valid ones</a> (JSON)</li>\n\
         <li><a href=\"/api/v1/devices\">All devices</a> (JSON)</li>\n\
         <li><a href=\"/api/v1/events\">Recent events</a> (JSON)</li>\n\
         <li><a href=\"/-/healthy\">Healthy</a>, <a href=\"/-/ready\">ready</a></li>\n\
         </ul>\n\
         <p>Version {version}</p>\n\
         </body>\n\
         </html>\n"
    )
}

/// What a tired person needs to know.
fn sentence(snapshot: &Snapshot) -> String {
    let all = snapshot.devices.len();
    let with = |health| snapshot.devices.iter().filter(|device| device.counts().health() == health).count();
    let of_all = match all {
        1 => "the one multipath device".to_owned(),
        _ => format!("{all} multipath devices"),
    };
    match (all, with(Health::WithoutValidPaths), with(Health::Degraded)) {
        (0, ..) => "There is no multipath device on this host.".to_owned(),
        (1, 0, 0) => "The one multipath device has all its paths.".to_owned(),
        (_, 0, 0) => format!("All {all} multipath devices have all their paths."),
        (_, 0, degraded) => format!("{degraded} of {of_all} {} failed paths.", have(degraded)),
        (_, dead, 0) => format!("{dead} of {of_all} {} no valid path.", have(dead)),
        (_, dead, degraded) => {
            format!("{dead} of {of_all} {} no valid path, {degraded} more {} failed paths.", have(dead), have(degraded))
        }
    }
}

fn have(number: usize) -> &'static str {
    if number == 1 { "has" } else { "have" }
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
        escaped
    })
}
