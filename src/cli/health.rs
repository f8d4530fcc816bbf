//! `health`: asks the worker on this host, for containers without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{put, tell};
use crate::config::Config;
use crate::exit::Exit;

/// Well below what anybody waits who asks for health.
const DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of the answer, which is one line.
const MAX_ANSWER: u64 = 4096;

/// Asks `/livez` of the configured endpoint.
pub(super) fn run(config: &Config) -> Exit {
    let Some(address) = config.stats.map(reachable) else {
        tell("there is no endpoint to ask: watchers.stats.enabled is false");
        return Exit::Configuration;
    };
    if address.port() == 0 {
        tell("there is no endpoint to ask: watchers.stats.port leaves its choice to the system");
        return Exit::Configuration;
    }
    let (healthy, answer) = match ask(address) {
        Ok(answer) => answer,
        Err(error) => {
            tell(&format!("no answer from {address}: {error}"));
            return Exit::Unavailable;
        }
    };
    let answer: String = answer.trim().chars().filter(|c| !c.is_control()).collect();
    if healthy {
        put(&format!("{answer}\n"))
    } else {
        tell(&format!("not healthy: {answer}"));
        Exit::Failure
    }
}

/// The address to connect to, for one to listen on.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

fn ask(address: SocketAddr) -> Result<(bool, String), ureq::Error> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(DEADLINE))
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .build()
        .into();
    let mut response = agent.get(format!("http://{address}/livez")).call()?;
    let healthy = response.status().as_u16() == 200;
    // What it says is a courtesy; its status is the answer.
    let answer = response
        .body_mut()
        .with_config()
        .limit(MAX_ANSWER)
        .read_to_string();
    Ok((healthy, answer.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_asked_at_the_loopback() {
        for (listening, asked) in [
            ("0.0.0.0:8000", "127.0.0.1:8000"),
            ("[::]:8000", "[::1]:8000"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            let listening = listening.parse().expect("an address");
            assert_eq!(reachable(listening).to_string(), asked);
        }
    }
}
