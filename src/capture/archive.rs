//! The file of a capture: a compressed tar archive. The same entries give the same bytes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

/// An entry of the archive.
#[derive(Debug)]
pub struct ArchiveEntry {
    pub place: PathBuf,
    pub content: EntryContent,
}

/// The content of an entry.
#[derive(Debug)]
pub enum EntryContent {
    /// The bytes of a file.
    File(Vec<u8>),
    /// The target of a link.
    Link(PathBuf),
    Directory,
}

/// Packs the archive. An entry needs no entries for the directories above it.
///
/// # Errors
/// If no archive can hold one of the places or links.
pub fn pack(entries: &[ArchiveEntry]) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    for ArchiveEntry { place, content } in entries {
        let mut header = Header::new_gnu();
        header.set_mode(if matches!(content, EntryContent::File(_)) { 0o644 } else { 0o755 });
        header.set_size(0);
        match content {
            EntryContent::File(content) => {
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, place, content.as_slice())?;
            }
            EntryContent::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                archive.append_link(&mut header, place, target)?;
            }
            EntryContent::Directory => {
                header.set_entry_type(EntryType::Directory);
                archive.append_data(&mut header, place, io::empty())?;
            }
        }
    }
    archive.into_inner()?.finish()
}

/// A new file, readable only by its owner. It appears complete or not at all, and never replaces
/// another file.
#[derive(Debug)]
pub struct NewFile {
    new: NamedTempFile,
    place: PathBuf,
}

impl NewFile {
    /// Prepares a file for this place. Nothing appears there yet.
    ///
    /// # Errors
    /// If the place is taken, or no file can be created in its directory.
    pub fn create(place: &Path) -> io::Result<Self> {
        if place.symlink_metadata().is_ok() {
            return Err(exists_already());
        }
        let directory = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let new = NamedTempFile::new_in(directory).map_err(without_place)?;
        Ok(NewFile { new, place: place.to_owned() })
    }

    /// Returns the file to write to.
    ///
    /// # Errors
    /// If no more files can be opened.
    pub fn content(&self) -> io::Result<File> {
        self.new.as_file().try_clone()
    }

    /// Makes the complete file appear in its place.
    ///
    /// # Errors
    /// If the place has been taken meanwhile.
    pub fn keep(self) -> io::Result<()> {
        match self.new.persist_noclobber(self.place) {
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists_already()),
            Err(error) => Err(error.error),
            Ok(_) => Ok(()),
        }
    }
}

fn exists_already() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "the file exists already and is not overwritten")
}

/// tempfile adds the random name of its file, which means nothing to the user.
fn without_place(error: io::Error) -> io::Error {
    let text = error.to_string();
    let cause = text.split(" at path ").next().unwrap_or_default();
    io::Error::new(error.kind(), cause.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_written_whole_and_over_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("capture.tar.gz");
        let [one, other] = [(); 2].map(|()| NewFile::create(&file).unwrap());
        assert!(!file.exists());
        one.content().unwrap().write_all(b"one").unwrap();
        one.keep().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(other.keep().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(NewFile::create(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"one");
        let error = NewFile::create(&directory.path().join("none/file")).unwrap_err();
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
