"""The faults that a run must survive, and the tests that show it; `tests.faults` runs them.

A test stands where its subject is tested, or in this folder. A row is survived if all of its tests
pass. Tests of real SuperLinks and SuperNodes are marked ``deployment``; without them a row that has
no other tests is not counted.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """A fault.

    Attributes:
        fault: What is done to a run.
        required: What must happen.
        shown_by: Beginnings of node ids of tests, below ``tests``.
    """

    fault: str
    required: str
    shown_by: tuple[str, ...]


_BAD = "server/test_bad_replies.py::test_bad_reply_equals_absence_and_is_recorded_with_its_reason"
_FORGED = "server/test_bad_replies.py::test_a_forged_evaluation_equals_absence"


def _bad(*names: str) -> tuple[str, ...]:
    return tuple(f"{_BAD}[{name}]" for name in names)


ROWS: dict[str, Row] = {
    # processes and network
    "worker killed": Row(
        "SIGKILL of a worker, while it computes",
        "its chunk is computed again, to the same bits",
        (
            "client/test_workers.py::test_what_a_killed_worker_did_not_finish_is_done_again",
            "client/test_workers.py::test_killed_worker_changes_no_bit_of_a_run",
            "faults/test_processes.py::test_a_killed_worker_is_noticed_at_once",
        ),
    ),
    "worker killed while it sends": Row(
        "SIGKILL of a worker amid a large result, 10 times",
        "no part of the result is used",
        ("faults/test_processes.py::test_a_worker_killed_while_it_sends",),
    ),
    "worker stands still": Row(
        "SIGSTOP of a worker",
        "it is killed at the deadline, and its chunk is computed again",
        ("client/test_workers.py::test_a_worker_that_was_stopped",),
    ),
    "late replies": Row(
        "a reply after the deadline",
        "the round ends without it; its message ends with the round",
        (
            "server/test_quorum.py::test_replies_are_collected_until_the_deadline",
            "server/test_quorum.py::test_a_deadline_that_is_over_at_once_still_looks_once",
        ),
    ),
    "below the quorum": Row(
        "too few sites answer",
        "no step; a wait that ends, an exit code, a run that can be resumed",
        (
            "server/test_quorum.py::test_a_round_below_its_quorum_is_repeated",
            "server/test_quorum.py::test_a_quorum_that_does_not_come_ends_the_run_in_time",
        ),
    ),
    "site comes back": Row(
        "a site leaves, comes late, comes back as another node",
        "is asked again from then on; the log says who was there",
        (
            "server/test_roll.py::test_a_site_that_leaves_and_comes_back_takes_part_again",
            "server/test_roll.py::test_a_site_that_comes_back_as_another_node_takes_its_place",
            "server/test_roll.py::test_a_site_that_comes_late_is_asked_from_then_on",
        ),
    ),
    "bad roll call": Row(
        "a roll call of impossible clients, steps or statistics; two nodes with one name",
        "the node is left out, the features of the others do not change",
        (
            "server/test_roll.py::test_a_node_that_says_the_impossible_is_left_out_at_once",
            "server/test_roll.py::test_one_bad_hospital_does_not_change_the_features_of_others",
            "server/test_roll.py::test_a_node_that_appears_and_cannot_be_who_it_says",
        ),
    ),
    "slow start": Row(
        "a machine so busy that Flower starts the same task again and again",
        "it is said, and the run ends with cause and cure",
        ("simulations/test_slow_start.py::",),
    ),
    "exit codes": Row(
        "every way in which a command ends",
        "a code of its own, from one table",
        ("runs/test_exit_codes.py::test_a_command_ends_with_the_code_of_its_error",),
    ),
    "node killed": Row(
        "SIGKILL of a SuperNode in a round",
        "the round goes on without it",
        ("faults/test_deployed.py::test_the_others_go_on_without_a_killed_node",),
    ),
    "client raises": Row(
        "ValueError, MemoryError, RecursionError, OSError, SystemExit in a client's code",
        "the client is left out, without a word of its data",
        (
            "faults/test_replies.py::test_a_client_that_raises_was_absent",
            "server/test_bad_replies.py::test_text_of_a_client_error_never_reaches_the_server",
            "computing/test_failures.py::",
        ),
    ),
    "nemesis": Row(
        "bad replies, lost replies and SIGKILL of the server at random",
        "every round once, in the log who took part, the chain unbroken",
        ("faults/test_nemesis.py::test_every_round_is_taken_once_and_the_log_says_by_whom[0]",),
    ),
    "link cut": Row(
        "a node's connection cut for some seconds",
        "the node connects again, nothing is counted twice",
        ("faults/test_deployed.py::test_a_link_that_was_cut",),
    ),
    # bad replies
    "NaN": Row("NaN in one number", "left out: NONFINITE", _bad("NaN")),
    "infinity": Row("infinity in one number", "left out: NONFINITE", _bad("infinity")),
    "robust rules and NaN": Row(
        "NaN in a reply, under robust rules",
        "left out before the rule sees it",
        ("server/test_bad_replies.py::test_robust_rules_survive_nan_too",),
    ),
    "large update": Row(
        "an update 1e30, 1,000,000 or 1,000 times too large",
        "left out",
        (
            *_bad("1e30", "1,000 times too large", "1,000,000 times too large"),
            "server/test_limits.py::test_an_update_far_above_the_median_is_left_out",
            "server/test_limits.py::test_others_are_treated_as_if_who_is_left_out",
        ),
    ),
    "shape that broadcasts": Row(
        "a wrong shape that could be broadcast",
        "left out: SHAPE",
        _bad("shape (1,)", "shape (1, 10)"),
    ),
    "shape of other bytes": Row(
        "bytes that are of another shape than declared",
        "left out",
        _bad("array bytes of another shape", "array bytes cut short", "array bytes of a zip file"),
    ),
    "type": Row(
        "float64, int32 for float32",
        "left out: DTYPE (nothing is cast)",
        _bad("float64", "int32"),
    ),
    "keys": Row(
        "records and arrays that are missing, renamed, too many, another app's",
        "left out: KEYS",
        _bad(
            "missing record", "missing metrics", "missing array", "extra array", "no reply record",
            "another app", "unknown form",
        ),
    ),
    "num-examples": Row(
        "0, -40, 1.5, 1e12, 1e9, NaN, none, a text, a truth value",
        "left out: WEIGHT",
        (
            *_bad(
                "num-examples -40", "num-examples 0", "num-examples 1e12", "num-examples NaN",
                "num-examples 1.5", "num-examples scalar", "num-examples missing",
                "num-examples 1e9", "num-examples of one more",
            ),
            "faults/test_replies.py::test_num_examples",
        ),
    ),
    "metrics": Row(
        "a metric that is NaN, too many, or of another length",
        "never a mean that is NaN, never a name that nobody asked for",
        (
            *_bad("metric of another length", "an invented metric", "100,000 values of a metric"),
            "faults/test_replies.py::test_metrics_of_training",
        ),
    ),
    "costs": Row(
        "costs that cannot be",
        "left out: COST",
        _bad(
            "flops -1", "flops 2^62 + 1", "flops 1.5", "flops NaN", "flops scalar",
            "flops of two clients", "peak bytes -1",
        ),
    ),
    "reply twice": Row(
        "every reply arrives twice",
        "each counts once",
        ("faults/test_replies.py::test_a_reply_that_arrives_twice_counts_once",),
    ),
    "stale reply": Row(
        "a reply of an earlier round, in training and evaluation",
        "left out: STALE",
        (*_bad("stale round"), f"{_FORGED}[another round]"),
    ),
    "reply to other meta-parameters": Row(
        "a reply computed from another base, for other clients, by another version",
        "left out: VERSION, CLIENTS",
        _bad("other meta-parameters", "other clients", "nobody", "another version", "no version"),
    ),
    "zero update": Row(
        "an update of zeros", "is used", ("faults/test_replies.py::test_an_update_of_zeros",)
    ),
    "client diverges": Row(
        "the inner loop of one client diverges",
        "the client itself says so, and sends no numbers",
        ("faults/test_replies.py::test_a_client_that_diverges_says_so_itself",),
    ),
    "codes": Row(
        "codes that the method of compression cannot have made",
        "left out: CODE",
        ("server/test_bad_replies.py::test_bad_codes_equal_absence",),
    ),
    "everybody bad": Row(
        "all replies of a round are bad",
        "the model stays, the run goes on",
        ("server/test_bad_replies.py::test_all_replies_bad_keeps_the_model_and_goes_on",),
    ),
    "nobody answers": Row(
        "no node answers in a round",
        "an error, no summary, the rounds before it are kept",
        ("server/test_bad_replies.py::test_a_run_in_which_nobody_answers_ends_without_a_summary",),
    ),
    "memory after a refusal": Row(
        "a reply of a client with a memory is refused, lost or late",
        "bit for bit as if the client had been absent, for every strategy and compression",
        ("client/test_slots.py::",),
    ),
    "forged evaluation": Row(
        "an accuracy of 7, of -1e308; one site that would choose the round",
        "the client is left out of the evaluation",
        (
            _FORGED,
            "server/test_bad_replies.py::test_a_metric_outside_its_range_is_refused",
            "server/test_model_selection.py::test_one_site_cannot_choose_the_round",
        ),
    ),
    "hostile names": Row(
        "an answer with 100,000 invented metrics",
        "the client is left out, and it costs seconds at most",
        (*_bad("an invented metric", "100,000 invented metrics"), f"{_FORGED}[100,000 names]"),
    ),
    # bad local data
    "no examples": Row(
        "an empty table, one without a client",
        "left out, named with the file",
        ("simulations/test_scenarios_csv.py::test_a_file_that_is_no_client_is_left_out",),
    ),
    "large site": Row(
        "a site with many times the examples of the others",
        "no more than its share of the mean",
        ("server/test_limits.py::test_no_site_has_more_than_its_share",),
    ),
    "one class": Row(
        "one class everywhere, a class at a test client alone",
        "refused, names what is missing",
        ("simulations/test_scenarios_csv.py::test_one_class_everywhere",),
    ),
    "bad table": Row(
        "NaN, infinity, text in a column of numbers, other columns",
        "refused, names file, column and row, never a value",
        (
            "simulations/test_scenarios_csv.py::test_a_bad_table_is_named_by_file_column_and_row",
            "api/test_from_clients.py::test_data_that_do_not_fit_are_refused_by_client_and_row",
        ),
    ),
    # robust aggregation
    "rule outside its bound": Row(
        "more bad clients than the rule withstands",
        "refused at the start; in a round the model stays: RULE",
        (
            "test_configuration.py::test_wrong_configuration_is_refused_with_the_right_key[arguments17",
            "faults/test_replies.py::test_too_few_replies_for_a_rule",
        ),
    ),
    "malicious devices": Row(
        "one of ten devices sends what hurts most, knowing the others' updates",
        "at most five points of accuracy under a robust rule; the whole grid: docs/faults.md",
        ("faults/test_attacks.py::",),
    ),
    "order of arrival": Row(
        "replies in any order",
        "the same bits",
        ("backends/test_same_bits.py::test_order_of_arrival_changes_no_bit",),
    ),
    # server, disk, signals
    "server killed": Row(
        "SIGKILL at every phase and at random instants",
        "goes on to the same bits",
        (
            "runs/test_resume.py::test_a_run_killed_at_any_phase",
            "runs/test_resume.py::test_a_run_killed_at_random_instants",
            "runs/test_resume.py::test_a_run_that_saved_no_state_yet_begins_anew",
            "runs/test_resume.py::test_a_run_that_is_killed_again_and_again",
        ),
    ),
    "real run killed": Row(
        "SIGKILL of the command, with workers, on Ray, in a deployment",
        "no process stays, and it goes on to the same bits",
        ("faults/test_deployed.py::test_a_killed_run_goes_on_to_the_same_bits",),
    ),
    "comparison killed": Row(
        "a comparison is interrupted",
        "complete runs are kept, the interrupted one goes on",
        ("comparison/test_compare.py::test_an_interrupted_run_of_a_comparison_goes_on",),
    ),
    "killed while it writes": Row(
        "SIGKILL after any byte of a state",
        "the state before it is used",
        ("faults/test_disk.py::test_a_run_killed_after_any_byte_of_a_state",),
    ),
    "disk full": Row(
        "no room for a line, for a state",
        "names file and bytes; resumes when there is room",
        ("runs/test_resume.py::test_a_full_disk_names_the_file_and_leaves_the_last_state",),
    ),
    "damaged state": Row(
        "cut, flipped, empty, gone, older",
        "found by its hash; the one before it is used",
        (
            "runs/test_journal.py::test_the_state_before_a_damaged_one_is_used_and_it_is_said",
            "runs/test_journal.py::test_a_state_whose_lines_are_gone_or_changed_is_not_used",
            "runs/test_journal.py::test_a_state_without_its_newest_file_is_the_one_before",
            "runs/test_journal.py::test_a_changed_configuration_is_found",
            "runs/test_resume.py::test_a_damaged_state_costs_a_round_and_no_bit",
            "client/test_slots.py::test_a_damaged_memory_counts_as_lost",
        ),
    ),
    "damaged lines": Row(
        "a line is changed, removed or added",
        "`show --verify` names the first one",
        ("runs/test_journal.py::test_every_line_that_is_changed_removed_or_added_is_found",),
    ),
    "damaged results": Row(
        "files of a finished run are damaged",
        "one clear error, or the run is made again",
        (
            "runs/test_damaged.py::test_a_comparison_runs_a_damaged_run_again",
            "faults/test_mutations.py::test_mutated_run_files",
        ),
    ),
    "folder cannot be written": Row(
        "read-only, a file in its place",
        "refused before round 1",
        ("faults/test_disk.py::test_a_folder_that_cannot_be_written_is_refused",),
    ),
    "folder made anew": Row(
        "the folder is removed or replaced",
        "the run notices it and writes nothing more",
        ("runs/test_holding.py::test_a_folder_that_was_removed_or_made_anew_is_noticed",),
    ),
    "two commands": Row(
        "two commands write to one folder",
        "one runs, the other is refused",
        (
            "runs/test_holding.py::test_of_two_commands_at_the_same_time_one_runs_and_is_named",
            "runs/test_holding.py::test_a_killed_holder_leaves_no_lock",
        ),
    ),
    "signals": Row(
        "SIGINT, SIGTERM, SIGHUP, a second SIGINT",
        "saves and says how to go on; the second ends at once",
        (
            "test_cli.py::test_a_signal_saves_the_run_and_says_how_to_go_on",
            "test_cli.py::test_a_second_signal_ends_at_once_without_a_traceback[0.1]",
        ),
    ),
    "no orphans": Row(
        "a program with processes is killed",
        "its processes and its folder go along",
        (
            "simulations/test_flower_processes.py::test_a_program_that_is_ended_takes",
            "client/test_workers.py::test_no_worker_and_no_file_outlives_its_run",
            "runs/test_holding.py::test_a_server_whose_command_was_killed_writes_nothing_more",
        ),
    ),
    "command killed": Row(
        "SIGKILL of a command with a SuperLink",
        "ten processes and a folder go along",
        ("runs/test_holding.py::test_a_killed_command_takes_all_processes_along",),
    ),
    "clock": Row(
        "the clock jumps by an hour, either way",
        "no deadline is missed, none is met early",
        ("faults/test_processes.py::test_a_clock_that_jumps",),
    ),
    "workers and threads": Row(
        "1, 2, 4 workers, other chunks, other nodes",
        "the same bits",
        (
            "client/test_workers.py::test_workers_change_no_bit",
            "client/test_workers.py::test_workers_share_the_clients_of_fused_and_change_no_bit",
            "client/test_workers.py::test_more_workers_than_chunks",
            "backends/test_same_bits.py::test_grouping_of_clients_over_nodes_changes_no_bit",
        ),
    ),
    # security
    "declared sizes": Row(
        "a header that declares 10^13 numbers, more bytes than declared",
        "refused before memory is taken",
        _bad(
            "array bytes of another shape", "shape (1, 10)", "100,000 arrays", "200 MB of zeros",
            "a rejection of 10 MB",
        ),
    ),
    "flipped bit": Row(
        "a bit of a reply or of a roll call flips",
        "left out: HASH",
        (
            "server/test_bad_replies.py::test_a_flipped_bit_of_the_body_is_refused",
            "server/test_roll.py::test_a_flipped_bit_is_refused",
        ),
    ),
    "proxy": Row(
        "HTTP_PROXY is set",
        "loopback is reached without it",
        ("simulations/test_proxies.py::",),
    ),
    "foreign kernels": Row(
        "a library of somebody else where kernels are kept",
        "not loaded",
        ("native/test_trust.py::",),
    ),
    "foreign folder": Row(
        "`out` of a run config names any folder",
        "refused outside the folder that the server's operator allows",
        (
            "runs/test_exit_codes.py::test_a_run_config_names_folders_only_where",
            "runs/test_exit_codes.py::test_a_config_of_somebody_else_is_never_replaced",
        ),
    ),
    "pickle": Row(
        "code in a pickle, in a reply and in a state",
        "never loaded",
        (
            "contracts/test_project.py::test_nothing_that_runs_code_from_a_file_is_used",
            "faults/test_disk.py::test_code_in_a_pickle_is_never_run",
        ),
    ),
    "mutations": Row(
        "10,000 mutated replies, records, run files, safetensors headers",
        "no traceback, nothing accepted where a hash can tell",
        ("faults/test_mutations.py::",),
    ),
    "data stay": Row(
        "a canary among the data of a site",
        "in no file and no line of a run",
        ("faults/test_disk.py::test_a_canary_in_the_data_of_a_site_leaves_no_trace",),
    ),
    # real sites
    "everybody of a federation": Row(
        "SIGKILL of a site's worker, of another's SuperNode and of the coordinator's command",
        "the same command goes on, to the theta_sha256 of a run in process",
        ("provisioning/test_federation.py::test_hospitals_end_in_the_same_bits",),
    ),
    "false coordinator": Row(
        "a certificate that is expired, not yet valid, of another host or authority; plain text; "
        "TLS 1.1",
        "refused within 5 s with cause and cure, by doctor and by site run",
        (
            "provisioning/test_connecting.py::test_a_bad_certificate_is_refused",
            "provisioning/test_connecting.py::test_site_run_ends_before_anything_starts",
        ),
    ),
    "false site": Row(
        "a node key that was not approved, that was revoked, or that is another site's",
        "no message reaches it",
        (
            "provisioning/test_federation.py::test_keys_that_are_not_registered_or_revoked",
            "provisioning/test_roster.py::test_one_key_cannot_be_two_sites",
            "provisioning/test_roster.py::test_a_revoked_key_stays_out",
        ),
    ),
    "control API": Row(
        "a site asks for anything but /v1/fleet/* and /health, or sends too large an object",
        "nginx refuses it",
        ("provisioning/test_generated.py::",),
    ),
    # configuration
    "bad configuration": Row(
        "forty bad configurations",
        "refused with key, value, what is allowed and the nearest key, before anything starts",
        (
            "test_configuration.py::test_wrong_configuration_is_refused_with_the_right_key",
            "test_configuration.py::test_refusal_takes_less_than_two_seconds_and_starts_nothing",
            "test_cli.py::test_resume_takes_the_runs_own_configuration_and_folder",
        ),
    ),
}  # fmt: skip

SPOILING = (
    "runs/test_journal.py",
    "runs/test_damaged.py",
    "test_cli.py::test_resume_takes_the_runs_own_configuration_and_folder",
)
"""Beginnings of node ids of tests, below ``tests``, that damage their runs on purpose."""
