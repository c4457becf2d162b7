//! The file: a compressed tar archive, the same bytes for the same entries.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{CWD, RenameFlags};
use tar::{Builder, EntryType, Header};

/// What lies in the archive.
#[derive(Debug)]
pub struct Entry {
    /// Where.
    pub place: PathBuf,
    /// What.
    pub content: Content,
}

/// What an entry is.
#[derive(Debug)]
pub enum Content {
    /// A file's content.
    File(Vec<u8>),
    /// Where a link points.
    Link(PathBuf),
    /// A directory.
    Directory,
}

/// The archive. Directories above an entry need not be there.
///
/// # Errors
/// If a place or a link is one that no archive can hold.
pub fn pack(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    for Entry { place, content } in entries {
        let mut header = Header::new_gnu();
        header.set_mode(if matches!(content, Content::File(_)) { 0o644 } else { 0o755 });
        header.set_size(0);
        match content {
            Content::File(content) => {
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, place, content.as_slice())?;
            }
            Content::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                archive.append_link(&mut header, place, target)?;
            }
            Content::Directory => {
                header.set_entry_type(EntryType::Directory);
                archive.append_data(&mut header, place, io::empty())?;
            }
        }
    }
    archive.into_inner()?.finish()
}

/// Makes this file, for its owner alone: whole or not at all, and over none that is there.
///
/// # Errors
/// If there is such a file, or it cannot be written.
pub fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut new = std::ffi::OsString::from(".");
    new.push(name);
    new.push(format!(".{}", std::process::id()));
    let new = file.with_file_name(new);
    let written = write_new(&new, content)
        .and_then(|()| Ok(rustix::fs::renameat_with(CWD, &new, CWD, file, RenameFlags::NOREPLACE)?));
    if written.is_err() {
        // It may not have been made.
        let _ = fs::remove_file(&new);
    }
    written
}

fn write_new(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_written_whole_and_over_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("capture.tar.gz");
        write(&file, b"one").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write(&file, b"other").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"one");
        assert!(write(&directory.path().join("none/file"), b"").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
