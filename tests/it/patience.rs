//! What an agent makes of answers that a coordinator gives while it stops, is killed, or has too much to do.

use crate::harness::{Agent, Coordinator, Guest, soon, take};
use app::api::{ClientState, Encoding, ErrorCode, RegisterRequest, Task, UpdateQuery};
use fedlearn::agent::Transport;
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const REGISTERED: &str = r#"{"client_id":"c1","token":"t","state":"join","model":null}"#;
const WAIT: &str = r#"{"task":"wait","state":"ready"}"#;

/// An answer with that body.
fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 0\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}

fn refusal(status: &str, code: &str) -> String {
    answer(status, &format!(r#"{{"code":"{code}","message":"as the test says"}}"#))
}

/// The same, cut off before its last byte.
fn cut(mut answer: String) -> String {
    answer.pop();
    answer
}

/// Reads a request; returns its first line, with how many bytes its body has.
async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "a whole request");
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return format!("{} [{}]", head.lines().next().unwrap().trim_end_matches(" HTTP/1.1"), body.len());
        }
    }
}

/// A coordinator that answers like this, one connection after the other; an empty answer is none. Returns what it was
/// asked.
async fn that_answers(answers: Vec<String>) -> (Transport, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in [answer("201 Created", REGISTERED)].into_iter().chain(answers) {
            let (mut stream, _) = listener.accept().await.unwrap();
            asked.push(request(&mut stream).await.replace("/api/v1/runs/r/", ""));
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        asked.split_off(1)
    });
    let mut transport = Transport::new(&origin, &"r".parse().unwrap()).unwrap();
    let request = RegisterRequest { name: "a".into(), samples: 1, device: String::new(), join_secret: None };
    transport.register(&request).await.unwrap();
    (transport, asked)
}

fn query() -> UpdateQuery {
    UpdateQuery { sha256: Some("00".into()), ..UpdateQuery::whole(1, None) }
}

/// Asks for a task, and has it in the end, however often it has to ask.
async fn has_its_task_in_the_end(mut answers: Vec<String>) {
    answers.push(answer("200 OK", WAIT));
    let times = answers.len();
    let (transport, asked) = that_answers(answers).await;
    let task = soon("a task", transport.task()).await.unwrap();
    assert_eq!(task, Task::Wait { state: ClientState::Ready, rejected: None });
    assert_eq!(asked.await.unwrap(), vec!["GET clients/c1/task?wait_s=25 [0]"; times]);
}

#[tokio::test]
async fn who_is_told_to_come_back_does() {
    let passing = [("503 Service Unavailable", "unavailable"), ("429 Too Many Requests", "too_many")];
    let passing = passing.into_iter().chain([("425 Too Early", "too_early"), ("408 Request Timeout", "timeout")]);
    has_its_task_in_the_end(passing.map(|(status, code)| refusal(status, code)).collect()).await;
}

#[tokio::test]
async fn a_question_is_asked_until_it_is_answered_to_the_last_byte() {
    // A proxy's words, none at all, and the most of an answer
    has_its_task_in_the_end(vec![answer("502 Bad Gateway", "<html>"), String::new(), cut(answer("200 OK", WAIT))])
        .await;
}

#[tokio::test]
async fn an_answer_that_no_coordinator_gives_is_not_asked_for_for_ever() {
    let page = || {
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>".to_owned()
    };
    let fault = || refusal("500 Internal Server Error", "internal");
    let other = || answer("200 OK", r#"{"task":"train","round":"first"}"#);
    let page_words =
        ["/api/v1/runs/r/clients/c1/task (200 OK", "expected application/json, got text/html", "\"<html>\""];
    let other_words = ["/api/v1/runs/r/clients/c1/task (200 OK", "invalid type: string", "\"{\\\"task\\\":\\\"train"];
    for (odd, words) in [(page(), &page_words[..]), (other(), &other_words), (fault(), &["as the test says"])] {
        let (transport, asked) = that_answers(vec![odd; 5]).await;
        let error = soon("an end", transport.task()).await.unwrap_err().to_string();
        for words in words {
            assert!(error.contains(words), "'{words}' is not in '{error}'");
        }
        assert_eq!(asked.await.unwrap().len(), 5);
    }
}

#[tokio::test]
async fn a_refusal_with_a_code_of_a_newer_coordinator_is_shown_with_its_message() {
    let (transport, asked) = that_answers(vec![refusal("451 Unavailable For Legal Reasons", "censored")]).await;
    let error = soon("an end", transport.task()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Unknown));
    assert_eq!(error.to_string(), "as the test says (451 Unavailable For Legal Reasons)");
    assert_eq!(asked.await.unwrap().len(), 1, "a refusal that is not temporary is not repeated");
}

#[tokio::test]
async fn an_agent_asks_again_after_a_task_of_a_newer_coordinator() {
    // Given a coordinator that sends a task which this agent does not know, then one that it knows,
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = Agent::noise(format!("http://{}", listener.local_addr().unwrap()), "older", Encoding::F32);
    let registered = REGISTERED.replace("null", r#"{"architecture":"cnn","channels":1,"classes":10}"#);
    let answers = [
        answer("201 Created", &registered),
        answer("200 OK", r#"{"task":"evaluate","round":3,"on":{"split":"test"}}"#),
        answer("200 OK", r#"{"task":"stop","reason":"as the test says"}"#),
        answer("204 No Content", ""),
    ];
    let mut asked = Vec::new();
    for answer in answers {
        let (mut stream, _) = soon("a request", listener.accept()).await.unwrap();
        asked.push(request(&mut stream).await);
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
    // then it asks again, and does as it is asked.
    assert!(asked[1].contains("/task") && asked[2].contains("/task"), "{asked:?}");
    assert_eq!(agent.gives_up().await.to_string(), "this agent has stopped: as the test says");
}

#[tokio::test]
async fn an_update_is_sent_again_when_the_coordinator_could_not_take_it() {
    let nothing = || refusal("404 Not Found", "not_found");
    let taken = || answer("202 Accepted", "{}");
    let (transport, asked) =
        that_answers(vec![refusal("503 Service Unavailable", "unavailable"), nothing(), taken()]).await;
    soon("it is taken", transport.update(3, &query(), "x/y", "0123456789".into())).await.unwrap();
    let put = "PUT rounds/3/updates/c1?samples=1&sha256=00 [10]";
    assert_eq!(asked.await.unwrap(), [put, "GET rounds/3/updates/c1 [0]", put]);
}

#[tokio::test]
async fn an_update_of_which_nothing_is_left_is_sent_again_from_its_beginning() {
    // Given a connection that breaks, a coordinator that has 4 bytes, and is killed before it is sent the rest,
    let here = r#"{"round":3,"sha256":"00","counted":false,"bytes":4}"#;
    let answers = vec![
        String::new(),
        answer("200 OK", here),
        refusal("409 Conflict", "conflict"),
        refusal("404 Not Found", "not_found"),
        answer("202 Accepted", "{}"),
    ];
    let (transport, asked) = that_answers(answers).await;
    soon("it is taken", transport.update(3, &query(), "x/y", "0123456789".into())).await.unwrap();
    let (put, look) = ("PUT rounds/3/updates/c1?samples=1&sha256=00 [10]", "GET rounds/3/updates/c1 [0]");
    assert_eq!(
        asked.await.unwrap(),
        [put, look, "PUT rounds/3/updates/c1?samples=1&sha256=00&offset=4 [6]", look, put]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_nothing_to_do_is_told_when_to_ask_again() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    let headers = async || take(200, guest.own(Method::GET, "/task")).await.headers().clone();
    assert_eq!(headers().await["retry-after"], "1");
    coordinator.order("/runs/tiny/rounds").await;
    assert!(!headers().await.contains_key("retry-after"));
}
