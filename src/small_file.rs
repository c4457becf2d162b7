//! Reads small files that other programs write: configurations, certificates, keys.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Larger than any expected file, and small compared with the exporter's memory limit.
const MAX_SIZE: u64 = 1 << 20;

/// Reads a file. Neither waits for a writer nor reads without limit.
///
/// # Errors
/// If the file cannot be read, is not a regular file, or is larger than 1 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let kind = file.metadata()?.file_type();
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if kind.is_dir() {
        return Err(io::Error::from(rustix::io::Errno::ISDIR));
    }
    if !kind.is_file() {
        return refused("not a regular file");
    }
    let mut content = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_SIZE { refused("larger than 1 MiB") } else { Ok(content) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("small"), "a").unwrap();
        std::fs::write(path("large"), vec![0; 2 << 20]).unwrap();
        std::os::unix::fs::symlink("small", path("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, Mode::from(0o600), 0).unwrap();
        assert_eq!(read(&path("small")).unwrap(), b"a");
        assert_eq!(read(&path("link")).unwrap(), b"a");
        for (name, why) in [("large", "1 MiB"), ("fifo", "regular"), ("", "directory"), ("none", "No such file")] {
            let error = read(&path(name)).unwrap_err().to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
        assert!(read(Path::new("/dev/zero")).is_err());
    }
}
