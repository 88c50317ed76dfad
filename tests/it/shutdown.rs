//! A coordinator that is told to stop: what is under way may end, nothing new begins, and all goes on at the next start.

use crate::harness::{Coordinator, Guest, read_to_end, safetensors, soon, with};
use app::api::ErrorCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A client in an open round, and a connection on which all of its update but the last byte is sent.
async fn all_but_the_last_byte() -> (Coordinator, Guest, TcpStream, u8) {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    coordinator.order("/runs/tiny/rounds").await;
    let body = safetensors(&with(2.0));
    let head = format!(
        "PUT /api/v1/runs/tiny/rounds/1/updates/{}?samples=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/vnd.safetensors\r\nContent-Length: {}\r\n\r\n",
        guest.id,
        guest.token,
        body.len()
    );
    let mut stream = TcpStream::connect(coordinator.authority()).await.unwrap();
    let (last, most) = body.split_last().unwrap();
    stream.write_all(&[head.as_bytes(), most].concat()).await.unwrap();
    let appears = async {
        while coordinator.incoming().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon("the file of an upload", appears).await;
    (coordinator, guest, stream, *last)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_under_way_may_end_and_counts_after_the_restart() {
    let (mut coordinator, guest, mut stream, last) = all_but_the_last_byte().await;
    coordinator.begin_to_stop();
    stream.write_all(&[last]).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    coordinator.stop().await;
    coordinator.start_again().await;
    let run = coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!((run.rounds[0].updates, &run.clients[0].id), (1, &guest.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_does_not_end_is_told_to_come_back() {
    let (mut coordinator, guest, mut stream, _) = all_but_the_last_byte().await;
    coordinator.begin_to_stop();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
    assert!(answer.contains(ErrorCode::Unavailable.as_str()), "{answer}");
    // Nothing of it is left, and it is welcome after the restart, in the same round.
    coordinator.stop().await;
    assert_eq!(coordinator.incoming(), Vec::<std::path::PathBuf>::new());
    coordinator.start_again().await;
    assert_eq!(guest.asked().await.round, 1);
    guest.sends(1, 2.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
}
