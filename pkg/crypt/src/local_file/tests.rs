use super::*;
use crate::Algorithm;
use crate::cipher::tests::cipher;

const SEALED_PIECE: usize = PIECE_BYTES + TAG_BYTES;

fn block(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn any_run_of_pieces_opens_by_itself() {
    let cipher = cipher("pkcs1", Algorithm::Aes256Gcm);
    for len in [1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES - 3] {
        let plain = block(len);
        let (header, file) = cipher.new_file("chunks/0/0/1_0_9");
        assert_eq!(header.len(), cipher.file_header_bytes());
        let sealed = file.seal(&plain);
        let again = cipher.open_file(&header, "chunks/0/0/1_0_9").unwrap();
        let pieces = len.div_ceil(PIECE_BYTES);
        for first in 0..pieces {
            for end in first + 1..=pieces {
                let mut some = sealed[first * SEALED_PIECE..sealed.len().min(end * SEALED_PIECE)].to_vec();
                let n = again.open(first, &mut some).unwrap();
                assert_eq!(&some[..n], &plain[first * PIECE_BYTES..len.min(end * PIECE_BYTES)]);
            }
        }
    }
}

#[test]
fn pieces_and_files_cannot_change_places() {
    let cipher = cipher("pkcs1", Algorithm::ChaCha20);
    let (header, file) = cipher.new_file("a");
    let sealed = file.seal(&block(3 * PIECE_BYTES));
    let piece = |n: usize| sealed[n * SEALED_PIECE..(n + 1) * SEALED_PIECE].to_vec();
    assert_eq!(file.open(0, &mut piece(1)), Err(OpenError::Content));
    let moved = cipher.open_file(&header, "b").unwrap();
    assert_eq!(moved.open(0, &mut piece(0)), Err(OpenError::Content));
    let (other, _) = cipher.new_file("a");
    let other = cipher.open_file(&other, "a").unwrap();
    assert_eq!(other.open(0, &mut piece(0)), Err(OpenError::Content), "each file has its own nonce");
    assert!(file.open(0, &mut piece(0)).is_ok());
    let mut cut = piece(0);
    cut.truncate(10);
    assert_eq!(file.open(0, &mut cut), Err(OpenError::Content));
}

#[test]
fn a_header_of_an_object_is_none_of_a_file() {
    let cipher = cipher("pkcs1", Algorithm::Aes256Gcm);
    assert_eq!(cipher.open_file(&cipher.seal(&[b"x"]), "a").unwrap_err(), OpenError::Form);
}
