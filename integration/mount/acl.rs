//! POSIX ACLs: setfacl(1) and getfacl(1) see what they set, the kernel minds it, children inherit.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use cairn_types::{AclEntry, AclRule};

use super::Fs;
use super::xattrs::{get, set};
use crate::support::{as_user, errno, nobody};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

fn rule(owner: u16, group: u16, mask: u16, other: u16, users: &[(u32, u16)]) -> AclRule {
    let users = users.iter().map(|&(id, perm)| AclEntry { id, perm }).collect();
    AclRule { owner, group, mask, other, users, groups: vec![] }
}

fn read(path: &Path, name: &str) -> AclRule {
    AclRule::from_xattr(&get(path, name).unwrap()).unwrap()
}

fn with_acl() -> Fs {
    Fs::with(&["--enable-acl"], &[])
}

#[test]
fn a_named_user_may_what_the_mask_leaves() {
    let m = with_acl();
    m.write("f", b"x");
    let f = m.path("f");
    fs::set_permissions(&f, Permissions::from_mode(0o600)).unwrap();
    let open = || as_user(nobody(), &[], || File::open(&f).map(drop));
    assert_eq!(errno(open()), libc::EACCES);
    set(&f, ACCESS, &rule(6, 0, 4, 0, &[(nobody().0, 6)]).to_xattr()).unwrap();
    open().unwrap();
    assert_eq!(fs::metadata(&f).unwrap().mode() & 0o777, 0o640, "the group bits are the mask");
    as_user(nobody(), &[], || {
        assert_eq!(errno(File::options().write(true).open(&f)), libc::EACCES, "the mask takes writing away");
    });
    fs::set_permissions(&f, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(read(&f, ACCESS), rule(6, 0, 0, 0, &[(nobody().0, 6)]), "chmod changes the mask");
    assert_eq!(errno(open()), libc::EACCES);
}

#[test]
fn children_inherit_the_default_rule() {
    let m = with_acl();
    fs::create_dir(m.path("d")).unwrap();
    let default = rule(7, 5, 7, 0, &[(1001, 6)]);
    set(&m.path("d"), DEFAULT, &default.to_xattr()).unwrap();
    m.write("d/f", b"");
    fs::create_dir(m.path("d/sub")).unwrap();
    let m = m.remount(&[]);
    let child = read(&m.path("d/f"), ACCESS);
    assert_eq!(child.users, default.users);
    assert_eq!(child.mask & 1, 0, "files are made without execution");
    assert_eq!(read(&m.path("d/sub"), DEFAULT), default);
    assert_eq!(fs::metadata(m.path("d/f")).unwrap().mode() & 0o007, 0);
    m.close();
}

#[test]
fn a_removed_rule_is_gone() {
    let m = with_acl();
    m.write("f", b"");
    let f = m.path("f");
    set(&f, ACCESS, &rule(6, 4, 7, 4, &[(1001, 7)]).to_xattr()).unwrap();
    rustix::fs::lremovexattr(&f, ACCESS).unwrap();
    assert_eq!(errno(get(&f, ACCESS)), libc::ENODATA);
    m.close();
}

#[test]
fn volumes_without_acls_refuse_them() {
    let m = Fs::new();
    m.write("f", b"");
    let refused = errno(set(&m.path("f"), ACCESS, &rule(6, 4, 7, 4, &[(1001, 7)]).to_xattr()));
    assert_eq!(refused, libc::EOPNOTSUPP);
}
