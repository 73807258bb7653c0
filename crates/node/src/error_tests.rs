use super::*;

fn vm() -> Named {
    Named {
        name: "Nested".parse().unwrap(),
        id: VmId("e78f740f-ae83-4021-aad8-4fa8fca1227b".parse().unwrap()),
    }
}

#[test]
fn a_processor_of_a_running_machine_is_refused_in_hyper_vs_shape() {
    let error = NodeError::ModifyDevice {
        vm: vm(),
        device: Device::Processor,
        reason: ModifyReason::State(VmState::Running),
    };
    assert_eq!(
        error.message(),
        "Failed to modify device 'Processor'.\n\
         The operation cannot be performed while the virtual machine is in its current state.\n\
         'Nested' failed to modify device 'Processor'. (Virtual machine ID E78F740F-AE83-4021-AAD8-4FA8FCA1227B)\n\
         The operation cannot be performed while the virtual machine is in its current state."
    );
    assert_eq!(error.code(), ErrorKind::InvalidState);
    assert_eq!(error.hint().unwrap(), "'Nested' is Running; turn it off first (Stop-VM)");
}

#[test]
fn an_unknown_machine_is_refused_in_hyper_vs_words() {
    let error = NodeError::NotFound { object: Object::Vm, name: "X".into() };
    assert_eq!(error.message(), "Hyper-V was unable to find a virtual machine with name \"X\".");
}

#[test]
fn the_message_has_every_cause_once() {
    let error = NodeError::Io {
        action: "open",
        path: "/x".into(),
        source: io::Error::new(io::ErrorKind::NotFound, "no such file"),
    };
    assert_eq!(error.message(), "cannot open /x: no such file");
    let invalid = VmInvalid::Processors { asked: 0, max: 2 };
    let error = NodeError::Create { vm: vm().name, source: invalid.clone() };
    assert_eq!(error.message(), format!("'Nested' cannot be created: {invalid}"));
    assert_eq!(NodeError::from(NameError::Empty).message(), "a name can't be empty");
}

#[test]
fn a_failed_start_is_of_the_kind_of_its_cause() {
    let short = NodeError::MemoryShort { vm: vm(), wanted_mb: 4096, available_mb: 100 };
    let error = NodeError::Start { vm: vm(), cause: Box::new(short) };
    assert_eq!(error.code(), ErrorKind::Requirement);
    assert_eq!(
        error.message(),
        "'Nested' failed to start. (Virtual machine ID E78F740F-AE83-4021-AAD8-4FA8FCA1227B)\n\
         Not enough memory in the system to start the virtual machine Nested with ram size 4096 megabytes."
    );
}

#[test]
fn what_was_asked_for_is_shown_as_it_was_written() {
    let error = NodeError::NotFound { object: Object::Repository, name: "Bob's".into() };
    assert_eq!(error.message(), "there is no repository \"Bob's\"");
    let error = NodeError::NoPoint { vm: "Web02".into(), earlier: 3 };
    assert_eq!(
        error.message(),
        "there is no recovery point of 'Web02'; 3 are of an earlier machine of that name"
    );
}

#[test]
fn an_agent_that_does_not_answer_may_still_come() {
    let error = NodeError::Agent { vm: vm().name, source: AgentError::Absent };
    let message = error.message();
    assert!(message.contains("answers yet") && message.contains("qemu-guest-agent"), "{message}");
    assert!(error.hint().unwrap().contains("nestling vm exec 'Nested' --wait"), "{:?}", error.hint());
}

#[test]
fn the_state_that_is_in_the_way_is_named_with_what_ends_it() {
    let hint = |state, operation| NodeError::State { vm: vm(), state, operation }.hint().unwrap();
    let when_off = Operation::ModifyWhenOff;
    assert!(hint(VmState::Running, when_off).ends_with("nestling vm turn-off 'Nested'"));
    assert!(hint(VmState::Saved, when_off).contains("remove-saved-state"));
    assert_eq!(hint(VmState::Stopping, Operation::Pause), "'Nested' is Stopping");
}
