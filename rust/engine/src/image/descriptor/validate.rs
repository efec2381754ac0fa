//! Which claims of a descriptor are believed: those that are bounded and do not contradict each other.

use super::{CHUNK_SIZES, Descriptor, Encoding, Inspection, SECTOR, VolumeRange};

/// The most partitions a descriptor may name; The usual GPT has 128 entries.
const PARTITIONS: usize = 1024;
/// The longest text a descriptor may have in a member, in bytes.
const TEXT: usize = 255;
/// The most texts of what was found by looking.
const ITEMS: usize = 256;

/// Nothing, or a sentence about what is wrong.
type Checked = std::result::Result<(), String>;

impl Descriptor {
    /// Check that it holds together; the error is a sentence about what does not.
    pub(in crate::image) fn validate(&self) -> Checked {
        check_text("name", &self.name, false)?;
        check_text("image_version", &self.image_version, false)?;
        check_text("created", &self.created, false)?;
        if self.size_bytes == 0 || !self.size_bytes.is_multiple_of(SECTOR) {
            return Err(format!("size_bytes must be a multiple of {SECTOR} and not 0"));
        }
        if i64::try_from(self.size_bytes).is_err() {
            return Err("size_bytes is larger than any file can be".to_owned());
        }
        if !CHUNK_SIZES.contains(&self.chunk_bytes) {
            return Err("chunk_bytes must be 1, 2 or 4 MiB".to_owned());
        }
        self.check_mapped()?;
        self.check_content()?;
        self.check_partitions()
    }

    fn check_mapped(&self) -> Checked {
        let mut chunks = 0;
        let mut least = 0;
        for &(start, length) in &self.mapped {
            let end = start
                .checked_add(length)
                .filter(|end| *end <= self.size_bytes)
                .ok_or_else(|| format!("mapped: {start} and {length} lead out of the image"))?;
            if start < least {
                return Err(format!(
                    "mapped: the range at {start} comes before, overlaps or touches the one before it"
                ));
            }
            let whole = length % self.chunk_bytes == 0 || end == self.size_bytes;
            if length == 0 || start % self.chunk_bytes != 0 || !whole {
                return Err(format!("mapped: the range at {start} is not made of whole chunks"));
            }
            chunks += length.div_ceil(self.chunk_bytes);
            least = end + 1;
        }
        if chunks != self.chunks.len() as u64 {
            return Err(format!(
                "there are {} digests in chunks, and mapped has {chunks} chunks",
                self.chunks.len()
            ));
        }
        Ok(())
    }

    fn check_content(&self) -> Checked {
        let file = &self.content.file;
        check_text("content.file", file, false)?;
        if file.contains('/') || file == "." || file == ".." {
            return Err("content.file must be a bare file name".to_owned());
        }
        if self.content.encoding == Encoding::Identity && self.content.size_bytes != self.size_bytes
        {
            return Err("an image that is not packed has the size of its content".to_owned());
        }
        Ok(())
    }

    fn check_partitions(&self) -> Checked {
        let partitions = self.partition_table.as_ref().map_or(&[][..], |table| &table.partitions);
        if partitions.len() > PARTITIONS {
            return Err(format!("there are more than {PARTITIONS} partitions"));
        }
        if let Some(table) = &self.partition_table {
            check_text("partition_table.id", &table.id, true)?;
        }
        for (index, partition) in partitions.iter().enumerate() {
            let number = partition.number;
            if number == 0 || partitions[..index].iter().any(|other| other.number == number) {
                return Err(format!("partition number {number} is 0 or there twice"));
            }
            let inside = partition
                .start_bytes
                .checked_add(partition.size_bytes)
                .is_some_and(|end| end <= self.size_bytes);
            if !inside || partition.size_bytes == 0 {
                return Err(format!("partition {number} is empty or leads out of the image"));
            }
            let sectors = partition.start_bytes % SECTOR == 0 && partition.size_bytes % SECTOR == 0;
            if !sectors {
                return Err(format!("partition {number} is not made of sectors of {SECTOR} bytes"));
            }
            check_text("a partition's type", &partition.kind, false)?;
            check_text("a partition's name", &partition.name, true)?;
            for text in [&partition.file_system, &partition.uuid, &partition.label] {
                check_text(
                    "a file system's name, UUID or label",
                    text.as_deref().unwrap_or(""),
                    true,
                )?;
            }
        }
        if self.root_partition.is_some() && self.root().is_none() {
            return Err("root_partition names no partition of the table".to_owned());
        }
        self.check_inspection()
    }

    fn check_range(&self, range: Option<VolumeRange>) -> Checked {
        let (Some(range), Some(partition)) = (range, self.root()) else { return Ok(()) };
        let VolumeRange { start_bytes, size_bytes } = range;
        let end = start_bytes.checked_add(size_bytes);
        let inside = start_bytes >= partition.start_bytes
            && end.is_some_and(|end| end <= partition.start_bytes + partition.size_bytes);
        let sectors = start_bytes.is_multiple_of(SECTOR) && size_bytes.is_multiple_of(SECTOR);
        if inside && sectors && size_bytes > 0 {
            Ok(())
        } else {
            Err("root.volume_range does not lie in its partition".to_owned())
        }
    }

    fn check_inspection(&self) -> Checked {
        let Inspection { architecture, root, system, notes, .. } = &self.inspection;
        let mut texts: Vec<&str> = Vec::new();
        texts.extend(architecture.as_deref());
        if let Some(root) = root {
            if Some(root.partition) != self.root_partition {
                return Err("root.partition is not root_partition".to_owned());
            }
            self.check_range(root.volume_range)?;
            let optional = [
                &root.volume,
                &root.volume_problem,
                &root.subvolume,
                &root.deployment,
                &root.file_system,
                &root.uuid,
                &root.label,
            ];
            texts.extend(optional.into_iter().filter_map(Option::as_deref));
            texts.extend(root.features.iter().map(String::as_str));
            texts.push(&root.because);
        }
        if let Some(system) = system {
            let optional =
                [&system.name, &system.id, &system.version, &system.selinux, &system.holdfast];
            texts.extend(optional.into_iter().filter_map(Option::as_deref));
            texts.extend(system.kernels.iter().map(String::as_str));
        }
        if texts.len() > ITEMS || notes.len() > ITEMS {
            return Err("what was found by looking has too many parts".to_owned());
        }
        for text in texts {
            check_text("what was found by looking", text, true)?;
        }
        if notes.iter().any(|note| note.len() > 1024 || note.chars().any(char::is_control)) {
            return Err("a note is too long, or has control characters".to_owned());
        }
        Ok(())
    }
}

/// Names end up in boot menus, logs and terminals: they are short and have no control characters.
fn check_text(member: &str, text: &str, may_be_empty: bool) -> Checked {
    if text.is_empty() && !may_be_empty {
        return Err(format!("{member} must not be empty"));
    }
    if text.len() > TEXT || text.chars().any(char::is_control) {
        return Err(format!("{member} must have at most {TEXT} bytes and no control characters"));
    }
    Ok(())
}
