//! ext2, ext3 and ext4, by the crate `ext4-view`; a journal that was not replayed is taken into account.

use ext4_view::{Ext4, Ext4Read, FileType, Path};

use super::{ENTRIES, Tree, Type};
use crate::Source;

struct Device(Source);

impl Ext4Read for Device {
    fn read(
        &mut self,
        start: u64,
        to: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        self.0.read_at(start, to).ok_or_else(|| "beyond the end of the file system".into())
    }
}

struct Files(Ext4);

/// The files of the file system on a device; a clause about why it cannot be read.
pub(super) fn open(device: &Source) -> Result<Box<dyn Tree>, String> {
    match Ext4::load(Box::new(Device(Source::clone(device)))) {
        Ok(files) => Ok(Box::new(Files(files))),
        Err(error) => Err(error.to_string()),
    }
}

impl Tree for Files {
    fn read(&self, path: &str, most: usize) -> Option<Vec<u8>> {
        let mut file = self.0.open(Path::try_from(&*format!("/{path}")).ok()?).ok()?;
        let mut bytes = vec![0; super::walk::length(file.metadata().len(), most)];
        let mut at = 0;
        while at < bytes.len() {
            match file.read_bytes(&mut bytes[at..]).ok()? {
                0 => break,
                length => at += length,
            }
        }
        bytes.truncate(at);
        Some(bytes)
    }

    fn list(&self, path: &str) -> Option<Vec<String>> {
        let entries = self.0.read_dir(Path::try_from(&*format!("/{path}")).ok()?).ok()?;
        let mut names = Vec::new();
        for entry in entries.take(ENTRIES) {
            let entry = entry.ok()?;
            let name = String::from_utf8_lossy(entry.file_name().as_ref()).into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Some(names)
    }

    fn kind(&self, path: &str) -> Option<Type> {
        let path = format!("/{path}");
        let found = self.0.metadata(Path::try_from(&*path).ok()?).ok()?;
        Some(match found.file_type() {
            FileType::Regular => Type::File,
            FileType::Directory => Type::Directory,
            FileType::Symlink => Type::Link,
            _ => Type::Other,
        })
    }
}
