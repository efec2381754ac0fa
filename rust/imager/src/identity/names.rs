//! The new system's own numbers of users and groups.

use std::collections::HashMap;

use super::place::{Owner, Root};

/// Numbers by name.
#[derive(Debug, Default)]
pub struct Names {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

impl Names {
    /// Read them from `/etc/passwd` and `/etc/group` below the root, and from the files of these names
    /// in `/usr/lib`, where ostree keeps those of the image; what is not there knows nobody.
    pub fn read(root: &Root) -> Self {
        let table = |name: &str| {
            let [own, image] = [format!("/etc/{name}"), format!("/usr/lib/{name}")].map(|path| {
                let text = root.read(&path).unwrap_or_default();
                numbers(&String::from_utf8_lossy(&text))
            });
            let mut table = image;
            table.extend(own);
            table
        };
        Self { users: table("passwd"), groups: table("group") }
    }

    /// Whether the new system has this user.
    pub fn has_user(&self, name: &str) -> bool {
        self.users.contains_key(name)
    }

    /// Whether the new system has this group.
    pub fn has_group(&self, name: &str) -> bool {
        self.groups.contains_key(name)
    }

    /// The owner by name where the new system knows it, else by number.
    pub fn owner(&self, uid: u32, gid: u32, user: Option<&str>, group: Option<&str>) -> Owner {
        let find = |table: &HashMap<String, u32>, name: Option<&str>| {
            name.and_then(|name| table.get(name).copied())
        };
        Owner {
            uid: find(&self.users, user).unwrap_or(uid),
            gid: find(&self.groups, group).unwrap_or(gid),
        }
    }
}

/// Both files have the name first and the number third. The first line of a name counts.
fn numbers(text: &str) -> HashMap<String, u32> {
    let mut table = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next())
            && let Ok(number) = number.parse()
        {
            table.entry(name.to_owned()).or_insert(number);
        }
    }
    table
}
