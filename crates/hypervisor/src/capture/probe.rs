//! Asks QEMU whether a capture is whole: one read over NBD, of which only the error counts.
//!
//! There is no command for it. A filter that could not keep something refuses all reads of its view from then on, and it
//! does so before the guest's write goes on; so one read that is answered proves all that was read before it. (More than
//! that is not read from views: QEMU before 8.0 gives out the guest's new bytes for reads that begin in what was kept and
//! end beyond it.)

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// QEMU answers at once unless its disks are stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION: &[u8; 8] = b"IHAVEOPT";
const OPTION_EXPORT_NAME: u32 = 1;
/// Named options, and no padding after the answer.
const FLAGS: u32 = 0b11;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const READ: u32 = 0;
const SECTOR: usize = 512;

/// Whether the first sector of an export can be read.
pub(super) async fn can_be_read(socket: &Path, export: &str) -> io::Result<bool> {
    let asked =
        timeout(ANSWER_TIMEOUT, async { read_sector(UnixStream::connect(socket).await?, export).await });
    asked.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn read_sector(mut stream: UnixStream, export: &str) -> io::Result<bool> {
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "QEMU's NBD server does not speak NBD");
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await?;
    if !greeting.starts_with(GREETING) || greeting[17] & 0b11 != 0b11 {
        return Err(nonsense());
    }
    let mut request = FLAGS.to_be_bytes().to_vec();
    request.extend(OPTION);
    request.extend(OPTION_EXPORT_NAME.to_be_bytes());
    request.extend(u32::try_from(export.len()).map_err(io::Error::other)?.to_be_bytes());
    request.extend(export.as_bytes());
    stream.write_all(&request).await?;
    // The size and the flags; a server that has no such export closes instead.
    stream.read_exact(&mut [0; 10]).await?;
    let (cookie, offset) = (1_u64, 0_u64);
    let mut request = REQUEST.to_be_bytes().to_vec();
    request.extend(READ.to_be_bytes());
    request.extend(cookie.to_be_bytes());
    request.extend(offset.to_be_bytes());
    request.extend((SECTOR as u32).to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).await?;
    if reply[..4] != REPLY.to_be_bytes() || reply[8..] != cookie.to_be_bytes() {
        return Err(nonsense());
    }
    let whole = reply[4..8] == [0; 4];
    if whole {
        stream.read_exact(&mut [0; SECTOR]).await?;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(greeting: &[u8], after_option: &[u8], reply: &[u8]) -> io::Result<bool> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (greeting, after_option, reply) = (greeting.to_vec(), after_option.to_vec(), reply.to_vec());
        let server = tokio::spawn(async move {
            theirs.write_all(&greeting).await.ok();
            let mut option = [0; 20 + 1];
            if theirs.read_exact(&mut option).await.is_ok() {
                assert_eq!(option[20], b'x');
                theirs.write_all(&after_option).await.ok();
                if !after_option.is_empty() && theirs.read_exact(&mut [0; 28]).await.is_ok() {
                    theirs.write_all(&reply).await.ok();
                }
            }
        });
        let answer = read_sector(ours, "x").await;
        server.await.unwrap();
        answer
    }

    fn reply(error: u32) -> Vec<u8> {
        [&REPLY.to_be_bytes()[..], &error.to_be_bytes(), &1_u64.to_be_bytes(), &[7; SECTOR]].concat()
    }

    #[tokio::test]
    async fn only_a_read_that_is_answered_proves_anything() {
        let greeting = [&GREETING[..], &[0, 3]].concat();
        assert!(answered(&greeting, &[0; 10], &reply(0)).await.unwrap());
        assert!(!answered(&greeting, &[0; 10], &reply(22)).await.unwrap());
        for (greeting, after, reply) in [
            (b"HTTP/1.1 400 Bad Request".to_vec(), vec![], vec![]),
            ([&GREETING[..], &[0, 1]].concat(), vec![], vec![]),
            (greeting.clone(), vec![], vec![]),
            (greeting.clone(), vec![0; 10], reply(0)[..100].to_vec()),
            (greeting.clone(), vec![0; 10], vec![0; 16]),
        ] {
            assert!(answered(&greeting, &after, &reply).await.is_err());
        }
    }
}
