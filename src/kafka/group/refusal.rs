//! Which failures of the group end the worker, and in what words.

use super::terms::Failure;
use crate::kafka::assignor::Strategy;
use crate::kafka::{Code, Error, Fatal, FatalKind};

/// What no retry can mend.
pub(super) fn final_failure(api: &'static str, group: &str, failure: &Failure) -> Option<Fatal> {
    let code = match failure {
        Failure::Code(code) => *code,
        Failure::Connection(Error::Refused { code, .. }) => *code,
        Failure::Connection(error) => return Fatal::of(error),
    };
    let (kind, why) = match code {
        Code::FencedInstanceId => (
            FatalKind::Fenced,
            "another member uses the same static id".to_string(),
        ),
        Code::GroupAuthorizationFailed => (
            FatalKind::NotAuthorised,
            "no permission to read in this group".into(),
        ),
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            (FatalKind::NotAuthorised, code.to_string())
        }
        Code::InconsistentGroupProtocol => (
            FatalKind::Configuration,
            format!(
                "its members share no assignor with us; ours are {}",
                Strategy::OFFERED.map(Strategy::name).join(", ")
            ),
        ),
        Code::InvalidGroupId => (FatalKind::Configuration, "the group id is invalid".into()),
        Code::InvalidSessionTimeout => (
            FatalKind::Configuration,
            "the session timeout is outside the broker's bounds \
             (group.min.session.timeout.ms, group.max.session.timeout.ms)"
                .into(),
        ),
        Code::GroupMaxSizeReached => (FatalKind::Configuration, "the group is full".into()),
        Code::UnsupportedVersion => (
            FatalKind::Configuration,
            "the broker does not speak our version of the request".into(),
        ),
        _ => return None,
    };
    Some(Fatal::new(
        kind,
        format!("{api} of group {group}: {why} ({})", code.code()),
    ))
}
