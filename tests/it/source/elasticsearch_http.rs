//! The Elasticsearch driver against servers that send what no Elasticsearch would.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cairn::source::SourceError;
use cairn::source::elasticsearch::{Client, ElasticsearchSettings};

use crate::support::machine::{has_program_or_skip, skip};

const INFO: &str = r#"{"version":{"number":"7.17.28"},"cluster_name":"c","cluster_uuid":"u"}"#;

/// Answers every connection's first request; what was asked is to be had from the receiver.
fn serve(answer: impl Fn(&mut TcpStream) + Send + 'static) -> (ElasticsearchSettings, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, requests) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let _ = asked.send(head.join("\n"));
            answer(&mut stream);
        }
    });
    (ElasticsearchSettings { url, request_timeout_seconds: 2, ..Default::default() }, requests)
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &str) {
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}");
}

fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", told(cause)),
        None => error.to_string(),
    }
}

#[test]
fn credentials_are_sent_and_neither_followed_elsewhere_nor_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "geheim\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let with_password =
        |settings| ElasticsearchSettings { user: Some("me".to_owned()), password_file: Some(file.clone()), ..settings };
    let (settings, requests) = serve(|stream| respond(stream, "200 OK", "", INFO));
    let client = Client::new(&with_password(settings)).unwrap();
    assert_eq!(client.info().unwrap().cluster_uuid, "u");
    assert!(requests.recv().unwrap().contains("Basic bWU6Z2VoZWlt"));

    let (elsewhere, others) = serve(|stream| respond(stream, "200 OK", "", INFO));
    let location = format!("location: {}/\r\n", elsewhere.url);
    let (settings, _requests) = serve(move |stream| respond(stream, "302 Found", &location, ""));
    let error = Client::new(&with_password(settings)).unwrap().info().unwrap_err();
    let text = told(&error);
    assert!(text.contains("302") && !text.contains("geheim"), "{text}");
    assert!(others.try_recv().is_err(), "a redirection was followed");
}

#[test]
fn a_refusal_is_told_with_its_causes() {
    let body = r#"{"error":{"type":"repository_exception","reason":"[backup] failed","caused_by":
        {"type":"access","reason":"no right to write"}},"status":500}"#;
    let (settings, _requests) = serve(move |stream| respond(stream, "500 Oops", "", body));
    let error = Client::new(&settings).unwrap().info().unwrap_err();
    let text = told(&error);
    assert!(text.contains(&settings.url), "{text}");
    assert!(text.contains("500 (repository_exception): [backup] failed: no right to write"), "{text}");
}

#[test]
fn what_is_no_elasticsearch_is_recognised() {
    for body in ["<html>welcome</html>", "{}", "[]", "{\"version\":{\"number\":7}}"] {
        let (settings, _requests) = serve(move |stream| respond(stream, "200 OK", "", body));
        let error = Client::new(&settings).unwrap().info().unwrap_err();
        assert!(matches!(error, SourceError::Answer { .. }), "{}", told(&error));
        assert!(error.to_string().contains("is this Elasticsearch"), "{error}");
    }
}

#[test]
fn an_answer_that_never_ends_takes_neither_time_nor_memory_without_bound() {
    let drip = |stream: &mut TcpStream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
        while stream.write_all(b" ").and_then(|()| stream.flush()).is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let (settings, _requests) = serve(drip);
    let started = Instant::now();
    let error = Client::new(&settings).unwrap().info().unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }), "{}", told(&error));
    assert!(started.elapsed() < Duration::from_secs(30));

    let flood = |stream: &mut TcpStream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        while stream.write_all(&[b' '; 64 << 10]).is_ok() {}
    };
    let (settings, _requests) = serve(flood);
    let patient = ElasticsearchSettings { request_timeout_seconds: 60, ..settings };
    let error = Client::new(&patient).unwrap().info().unwrap_err();
    assert!(error.to_string().contains("is longer than"), "{}", told(&error));
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const HTTPS_SERVER: &str = r#"
import http.server, ssl, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = sys.argv[1].encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain("leaf.pem", "leaf.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True); server.serve_forever()
"#;

const EXTENSIONS: &str = "[req]\ndistinguished_name = name\n[name]\n[ca]\nbasicConstraints = critical, CA:TRUE\n\
    [leaf]\nbasicConstraints = CA:FALSE\nsubjectAltName = IP:127.0.0.1\n";

/// Makes NAME.pem and NAME.key; signed by `ca`, or by itself.
fn certificate(directory: &Path, name: &str, ca: Option<&str>) {
    let mut command = Command::new("openssl");
    command.current_dir(directory).stderr(Stdio::null());
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args(["-config", "extensions", "-extensions", if ca.is_some() { "leaf" } else { "ca" }]);
    command.args(["-subj", &format!("/CN={name}"), "-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
    if let Some(ca) = ca {
        command.args(["-CA", &format!("{ca}.pem"), "-CAkey", &format!("{ca}.key")]);
    }
    assert!(command.status().unwrap().success());
}

#[test]
fn https_trusts_the_given_authority_and_no_other() {
    if !has_program_or_skip("python3") {
        return;
    }
    if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err() {
        return skip("openssl is missing");
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("extensions"), EXTENSIONS).unwrap();
    certificate(directory.path(), "ours", None);
    certificate(directory.path(), "another", None);
    certificate(directory.path(), "leaf", Some("ours"));
    let mut server = Command::new("python3")
        .args(["-c", HTTPS_SERVER, INFO])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let _server = Ended(server);
    let settings = |ca: Option<&str>| ElasticsearchSettings {
        url: format!("https://127.0.0.1:{}", port.trim()),
        ca_file: ca.map(|name| directory.path().join(name)),
        ..Default::default()
    };
    assert_eq!(Client::new(&settings(Some("ours.pem"))).unwrap().info().unwrap().version, "7.17.28");
    for ca in [Some("another.pem"), None] {
        let error = Client::new(&settings(ca)).unwrap().info().unwrap_err();
        assert!(told(&error).contains("certificate"), "{}", told(&error));
    }
    for ca in ["ours.key", "absent.pem"] {
        assert!(Client::new(&settings(Some(ca))).is_err(), "{ca} holds no certificate");
    }
}
