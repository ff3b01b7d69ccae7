//! POSIX ACL rules: stored form (volume format 5.2.7) and the Linux xattr form (6.10).

use thiserror::Error;

/// A named user or group and its permission bits (0..=7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AclEntry {
    /// uid or gid.
    pub id: u32,
    /// Read 4, write 2, execute 1.
    pub perm: u16,
}

/// One access or default rule. `0xFFFF` means "unset", as stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AclRule {
    /// Permission of the owner.
    pub owner: u16,
    /// Permission of the owning group.
    pub group: u16,
    /// Upper bound for everything but owner and other; `UNSET` for none.
    pub mask: u16,
    /// Permission of everybody else.
    pub other: u16,
    /// Named users, in the order given.
    pub users: Vec<AclEntry>,
    /// Named groups, in the order given.
    pub groups: Vec<AclEntry>,
}

/// Why an ACL xattr value was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AclXattrError {
    /// Wrong version, odd length, unknown tag or permission bits.
    #[error("malformed posix acl value")]
    Malformed,
    /// Named entries need a mask.
    #[error("posix acl names users or groups but has no mask")]
    NoMask,
}

const VERSION: u32 = 2;
const TAG_USER_OBJ: u16 = 0x01;
const TAG_USER: u16 = 0x02;
const TAG_GROUP_OBJ: u16 = 0x04;
const TAG_GROUP: u16 = 0x08;
const TAG_MASK: u16 = 0x10;
const TAG_OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;

impl AclRule {
    /// Stored value of a permission that is not set.
    pub const UNSET: u16 = 0xFFFF;

    /// A rule that says nothing.
    pub fn empty() -> AclRule {
        AclRule {
            owner: Self::UNSET,
            group: Self::UNSET,
            mask: Self::UNSET,
            other: Self::UNSET,
            users: vec![],
            groups: vec![],
        }
    }

    /// Nothing is set: storing it removes the ACL.
    pub fn is_empty(&self) -> bool {
        *self == AclRule::empty()
    }

    /// No named entries and no mask: the mode bits say it all.
    pub fn is_minimal(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty() && self.mask == Self::UNSET
    }

    /// The nine permission bits that mirror this rule; the group bits are the mask where there is one.
    pub fn mode_bits(&self) -> u16 {
        let group = if self.mask == Self::UNSET { self.group } else { self.mask };
        ((self.owner & 7) << 6) | ((group & 7) << 3) | (self.other & 7)
    }

    /// Takes what is not set from the permission bits of `mode`.
    pub fn fill_from_mode(&mut self, mode: u16) {
        for (field, bits) in [(&mut self.owner, mode >> 6), (&mut self.group, mode >> 3), (&mut self.other, mode)] {
            if *field == Self::UNSET {
                *field = bits & 7;
            }
        }
    }

    /// The rule after `chmod mode`: owner and other replaced, and the mask (the group if minimal).
    pub fn with_mode(&self, mode: u16) -> AclRule {
        let mut rule = self.clone();
        rule.owner = (mode >> 6) & 7;
        rule.other = mode & 7;
        if rule.is_minimal() {
            rule.group = (mode >> 3) & 7;
        } else {
            rule.mask = (mode >> 3) & 7;
        }
        rule
    }

    /// The access rule of a child created with `mode` under this default rule.
    pub fn for_child(&self, mode: u16) -> AclRule {
        let mut rule = self.clone();
        rule.owner &= (mode >> 6) & 7;
        rule.mask = if rule.mask == Self::UNSET { rule.mask } else { rule.mask & (mode >> 3) & 7 };
        rule.other &= mode & 7;
        rule
    }

    /// May a caller with these ids, who is not root, do what `want` (rwx bits) asks?
    pub fn allows(&self, uid: u32, gids: &[u32], file_uid: u32, file_gid: u32, want: u16) -> bool {
        let masked = |perm: u16| if self.mask == Self::UNSET { perm } else { perm & self.mask };
        let grants = |perm: u16| perm & want == want;
        if uid == file_uid {
            return grants(self.owner);
        }
        if let Some(e) = self.users.iter().find(|e| e.id == uid) {
            return grants(masked(e.perm));
        }
        let mut matched = false;
        let owning = gids.contains(&file_gid).then_some(self.group);
        let named = self.groups.iter().filter(|e| gids.contains(&e.id)).map(|e| e.perm);
        for perm in owning.into_iter().chain(named) {
            matched = true;
            if grants(masked(perm)) {
                return true;
            }
        }
        !matched && grants(self.other)
    }

    /// The stored record.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(16 + 6 * (self.users.len() + self.groups.len()));
        for perm in [self.owner, self.group, self.mask, self.other] {
            b.extend(perm.to_be_bytes());
        }
        for list in [&self.users, &self.groups] {
            b.extend((list.len() as u32).to_be_bytes());
            b.extend(AclEntry::encode_list(list));
        }
        b
    }

    /// Reads a stored record.
    pub fn decode(b: &[u8]) -> Option<AclRule> {
        let u16_at = |i: usize| Some(u16::from_be_bytes(b.get(i..i + 2)?.try_into().ok()?));
        let u32_at = |i: usize| Some(u32::from_be_bytes(b.get(i..i + 4)?.try_into().ok()?));
        let users_len = u32_at(8)? as usize * 6;
        let users = AclEntry::decode_list(b.get(12..12 + users_len)?)?;
        let groups_len = u32_at(12 + users_len)? as usize * 6;
        let start = 16 + users_len;
        let groups = AclEntry::decode_list(b.get(start..start + groups_len)?)?;
        Some(AclRule { owner: u16_at(0)?, group: u16_at(2)?, mask: u16_at(4)?, other: u16_at(6)?, users, groups })
    }

    /// Reads a `system.posix_acl_*` value.
    pub fn from_xattr(b: &[u8]) -> Result<AclRule, AclXattrError> {
        let mut rule = AclRule::empty();
        if b.is_empty() {
            return Ok(rule);
        }
        let (head, body) = b.split_first_chunk::<4>().ok_or(AclXattrError::Malformed)?;
        let (entries, rest) = body.as_chunks::<8>();
        if u32::from_le_bytes(*head) != VERSION || !rest.is_empty() {
            return Err(AclXattrError::Malformed);
        }
        for e in entries {
            let tag = u16::from_le_bytes([e[0], e[1]]);
            let perm = u16::from_le_bytes([e[2], e[3]]);
            let id = u32::from_le_bytes([e[4], e[5], e[6], e[7]]);
            if perm > 7 {
                return Err(AclXattrError::Malformed);
            }
            match tag {
                TAG_USER_OBJ => rule.owner = perm,
                TAG_USER => rule.users.push(AclEntry { id, perm }),
                TAG_GROUP_OBJ => rule.group = perm,
                TAG_GROUP => rule.groups.push(AclEntry { id, perm }),
                TAG_MASK => rule.mask = perm,
                TAG_OTHER => rule.other = perm,
                _ => return Err(AclXattrError::Malformed),
            }
        }
        if rule.mask == Self::UNSET && !(rule.users.is_empty() && rule.groups.is_empty()) {
            return Err(AclXattrError::NoMask);
        }
        Ok(rule)
    }

    /// The value of the `system.posix_acl_*` attribute.
    pub fn to_xattr(&self) -> Vec<u8> {
        let mut b = VERSION.to_le_bytes().to_vec();
        let mut push = |tag: u16, perm: u16, id: u32| {
            b.extend(tag.to_le_bytes());
            b.extend(perm.to_le_bytes());
            b.extend(id.to_le_bytes());
        };
        push(TAG_USER_OBJ, self.owner, NO_ID);
        self.users.iter().for_each(|e| push(TAG_USER, e.perm, e.id));
        push(TAG_GROUP_OBJ, self.group, NO_ID);
        self.groups.iter().for_each(|e| push(TAG_GROUP, e.perm, e.id));
        if self.mask != Self::UNSET {
            push(TAG_MASK, self.mask, NO_ID);
        }
        push(TAG_OTHER, self.other, NO_ID);
        b
    }
}

impl AclEntry {
    /// Stored form of a list: 6 bytes each, no count.
    pub fn encode_list(list: &[AclEntry]) -> Vec<u8> {
        list.iter().flat_map(|e| e.id.to_be_bytes().into_iter().chain(e.perm.to_be_bytes())).collect()
    }

    /// Reads such a list; `None` if torn.
    pub fn decode_list(b: &[u8]) -> Option<Vec<AclEntry>> {
        let (items, rest) = b.as_chunks::<6>();
        rest.is_empty().then(|| {
            items
                .iter()
                .map(|e| AclEntry {
                    id: u32::from_be_bytes([e[0], e[1], e[2], e[3]]),
                    perm: u16::from_be_bytes([e[4], e[5]]),
                })
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_equals_the_documented_example() {
        let rule = AclRule {
            owner: 7,
            group: 5,
            mask: 7,
            other: 5,
            users: vec![AclEntry { id: 1001, perm: 6 }],
            groups: vec![],
        };
        let hex: String = rule.encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "000700050007000500000001000003e9000600000000");
        assert_eq!(AclRule::decode(&rule.encode()), Some(rule.clone()));
        assert_eq!(AclRule::from_xattr(&rule.to_xattr()), Ok(rule));
    }

    #[test]
    fn named_entries_without_mask_are_refused() {
        let rule = AclRule {
            owner: 7,
            group: 5,
            mask: AclRule::UNSET,
            other: 5,
            users: vec![AclEntry { id: 1, perm: 6 }],
            groups: vec![],
        };
        assert_eq!(AclRule::from_xattr(&rule.to_xattr()), Err(AclXattrError::NoMask));
    }
}
