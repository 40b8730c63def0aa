"""List of what people bring to Spikefold, with the tests of how it answers.

Each example of networks, recordings, data and files that once went wrong has a test of the right
answer. The names are those of test functions; the files are relative to this folder.
"""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent

OWN_DATA = {
    "export and evaluate find one's own data again": [
        "sw/cli/test_own_data.py::test_export_and_evaluate_find_the_data_again",
    ],
    "they say what is missing or has changed": [
        "sw/cli/test_own_data.py::test_missing_or_changed_data_is_said",
    ],
    "own data may be called like a known set": [
        "sw/cli/test_own_data.py::test_own_data_may_be_called_like_a_known_set",
    ],
    "the recorded command repeats the run": [
        "sw/cli/test_own_data.py::test_the_recorded_command_repeats_the_run",
    ],
    "an export needs no labelled data": [
        "sw/cli/test_export.py::test_an_export_needs_no_data",
    ],
    "the published checkpoints are exported without their data": [
        "sw/cli/test_checkpoints.py::test_an_export_finds_samples_without_the_data_set",
    ],
    "an imported graph needs no samples": [
        "sw/exchange/test_nir.py::test_export_errors_say_what_to_do",
    ],
    "samples have any shape that means one thing": [
        "sw/data/test_inputs.py::test_samples_of_any_shape_that_means_one_thing",
    ],
    "other shapes are refused": [
        "sw/data/test_inputs.py::test_samples_of_shapes_that_mean_something_else",
    ],
    "training names the boards that the network will fit": [
        "sw/training/test_summary.py::test_training_says_what_it_does",
    ],
    "training warns of a network that fits no board": [
        "sw/training/test_summary.py::test_training_warns_of_what_cannot_run_and_of_dark_images",
    ],
    "the default network fits a board": [
        "sw/training/test_summary.py::test_the_default_network_fits_a_board",
    ],
    "fewer timesteps are named where they suffice": [
        "sw/compile/test_costs.py::test_fewer_timesteps_are_named_where_they_suffice",
    ],
    "remedies help and are needed": [
        "sw/compile/test_costs.py::test_remedies_help_and_are_needed",
    ],
    "what is too large is said before fields of a descriptor": [
        "sw/compile/test_costs.py::test_sizes_are_named_before_addresses",
    ],
    "boards and export agree": [
        "sw/cli/test_boards.py::test_the_export_reports_the_same_on_every_board",
    ],
    "channels last, floats from 0 to 1": [
        "sw/data/test_own.py::test_images_of_any_form_are_the_same",
    ],
    "what was converted is said": [
        "sw/data/test_own.py::test_what_was_converted_is_said",
    ],
    "images that could mean several things": [
        "sw/data/test_own.py::test_images_that_mean_nothing_certain_are_refused",
    ],
    "RGBA and images of 16 bits": [
        "sw/data/test_own.py::test_16_bits_are_scaled_and_transparency_is_refused",
    ],
    "labels from 1, one-hot, strings": [
        "sw/data/test_own.py::test_labels_of_any_form_are_classes",
    ],
    "negative labels, labels of a single class": [
        "sw/data/test_own.py::test_labels_that_are_no_classes_are_refused",
    ],
    "no such file": [
        "sw/data/test_datasets.py::test_own_data_that_cannot_be_used_is_named",
    ],
    "a flat folder of classes is divided": [
        "sw/data/test_own.py::test_a_flat_folder_of_classes_is_divided",
    ],
    "it is always divided alike": [
        "sw/data/test_own.py::test_data_without_a_test_part_are_divided_always_alike",
    ],
    "document and help list folders, keys and dtypes": [
        "sw/data/test_own.py::test_the_document_lists_what_is_read",
    ],
    "run uses the shipped images for networks of their data only": [
        "sw/cli/test_run.py::test_the_shipped_samples_are_for_networks_of_their_data_only",
    ],
    "so does report": [
        "sw/reporting/test_report_page.py::test_a_network_of_other_data_is_not_shown_on_the_shipped_images",
    ],
    "training says the time to the first epoch's end": [
        "sw/training/test_loop.py::test_the_run_says_its_time_once",
    ],
    "progress within the epoch": [
        "sw/training/test_summary.py::test_progress_is_told_where_there_is_no_terminal",
    ],
    "small data sets get a batch that fits": [
        "sw/training/test_summary.py::test_batches_fit_small_data",
    ],
    "the virtual board is announced as compiled only when it is": [
        "sim/test_verilate.py::test_executable_is_built_once",
    ],
    "a resumed run names the settings that differ": [
        "sw/cli/test_own_data.py::test_a_resumed_run_names_the_settings_that_differ",
    ],
    "export says what it does": [
        "sw/cli/test_export.py::test_an_export_needs_no_data",
    ],
    "idle threads of an export take no CPU time": [
        "sw/cli/test_export.py::test_idle_threads_of_an_export_sleep",
    ],
}
"""The first hour with data of one's own."""

NETWORKS = {
    "leaks of two and three shifts": [
        "hw/test_spec.py::test_leaks_of_several_shifts",
    ],
    "only monotone leaks": [
        "hw/test_spec.py::test_every_leak_is_monotone",
        "hw/test_spec.py::test_shifts_that_no_leak_has",
    ],
    "in reference, gateware and file": [
        "sw/network/test_reference.py::test_every_granularity_leak_and_reset",
        "hw/core/test_fire.py::test_equals_the_neuron",
        "sw/network/test_netfile.py::test_random_networks_survive_the_round_trip",
    ],
    "in training, folding and bounds": [
        "sw/training/test_loop.py::test_learned_leaks_are_trained_rounded_and_exported",
        "sw/network/test_bounds.py::test_bounds_hold_for_every_input",
    ],
    "the nearest leak, with a report": [
        "sw/exchange/test_statedict.py::test_the_nearest_leak_is_reported",
    ],
    "fine-tuning with it": [
        "sw/exchange/test_statedict.py::test_an_imported_network_is_fine_tuned",
    ],
    "beta 0.9 and 0.95, tau 10": [
        "hw/test_spec.py::test_a_leak_of_any_decay_is_near",
        "sw/exchange/test_public_networks.py::test_more_tutorials_of_snntorch",
    ],
    "the reset of snnTorch by default": [
        "sw/exchange/test_statedict.py::test_snntorch_fires_as_there",
        "hw/test_spec.py::test_a_delayed_reset_follows_the_leak",
    ],
    "recurrent graphs name every node": [
        "sw/exchange/test_nir_files.py::test_loops_are_named_node_by_node",
        "sw/exchange/test_public_networks.py::test_the_recurrent_graph_of_nir",
    ],
    "adaptive and global average pooling": [
        "sw/exchange/test_describe.py::test_forward_methods_of_ones_own",
        "sw/exchange/test_assembly.py::test_a_mean_over_the_whole_map_has_one_weight_for_all_of_it",
    ],
    "average pooling before neurons": [
        "sw/exchange/test_assembly.py::test_pooling_before_neurons_folds_into_the_weights_before_it",
    ],
    "overlapping max pooling": [
        "sw/exchange/test_assembly.py::test_overlapping_max_pooling_is_a_layer_of_ors",
    ],
    "Conv1d": [
        "sw/exchange/test_nir_files.py::test_networks_of_one_axis",
        "sw/exchange/test_describe.py::test_networks_of_one_axis",
    ],
    "SEW blocks with ADD": [
        "sw/exchange/test_public_networks.py::test_sew_resnet18",
        "sw/exchange/test_sums.py::test_sums_of_spikes_are_maps_with_the_same_weights",
    ],
    "they count in bounds, take a level and lie at one stride": [
        "sw/network/test_bounds.py::test_every_summand_counts",
        "sw/compile/test_sums.py::test_a_sum_takes_one_level",
        "sw/compile/test_sums.py::test_maps_that_are_read_together_lie_side_by_side",
    ],
    "what does not is refused": [
        "sw/compile/test_sums.py::test_sums_without_an_even_order_are_refused",
    ],
    "ADD is trained and exported": [
        "sw/training/test_loop.py::test_an_add_network_trains_and_folds",
    ],
    "NIR files without v_reset": [
        "sw/exchange/test_nir_files.py::test_files_without_v_reset_need_the_reset",
    ],
    "scalars, broadcast shapes, a batch axis, .h5": [
        "sw/exchange/test_nir_files.py::test_shapes_and_names_of_other_writers",
    ],
    "two time constants in one node": [
        "sw/exchange/test_nir_files.py::test_several_time_constants_in_one_node",
    ],
    "modules that would import as something else": [
        "sw/exchange/test_describe.py::test_what_would_be_another_network_is_refused_by_name",
    ],
    "operations that would": [
        "sw/exchange/test_describe.py::test_operations_that_would_be_another_network_are_named",
    ],
    "loops that return some timesteps only": [
        "sw/exchange/test_describe.py::test_a_loop_must_return_all_timesteps",
    ],
    "a state dict without --topology": [
        "sw/exchange/test_statedict.py::test_files_without_a_topology_name_the_option",
    ],
    "a Spikformer": [
        "sw/exchange/test_public_networks.py::test_transformers_are_refused_by_what_they_contain",
    ],
    "all public networks of the table": [
        "sw/exchange/test_public_networks.py::test_the_table_says_what_these_tests_hold",
    ],
}
"""Networks of other frameworks."""

RECORDINGS = {
    "AEDAT 2 of a DAVIS": [
        "sw/data/test_events_aedat.py::test_aedat_2_tells_the_camera_by_the_header",
    ],
    "AER-DAT 1.0 has events of six bytes": [
        "sw/data/test_events_formats.py::test_what_is_written_is_read_again",
        "sw/data/test_events_aedat.py::test_aedat_headers_end_where_the_events_begin",
    ],
    "AEDAT 4 named .aedat, cut": [
        "sw/data/test_events_aedat.py::test_a_cut_aedat_4_is_refused_whatever_its_name",
    ],
    "times in seconds": [
        "sw/data/test_events.py::test_times_in_seconds_keep_their_fractions",
    ],
    "the header decides, not the suffix": [
        "sw/data/test_inputs.py::test_recordings_are_known_by_their_first_bytes_and_described",
    ],
    "AEDAT 4": [
        "sw/data/test_events_aedat.py::test_compressed_aedat_4",
        "sw/data/test_events_aedat.py::test_streams_of_aedat_4",
    ],
    "Prophesee's .dat and .raw": [
        "sw/data/test_events_prophesee.py::test_prophesee_headers",
        "sw/data/test_events_prophesee.py::test_evt_3_follows_the_specification",
    ],
    "HDF5": [
        "sw/data/test_events_hdf5.py::test_hdf5",
        "sw/data/test_events_hdf5.py::test_hdf5_in_compressions_that_h5py_lacks",
    ],
    "sensor, unit and duration are shown": [
        "sw/data/test_events.py::test_recordings_are_described_by_kind",
        "sw/cli/test_run.py::test_recordings_are_described_beside_the_results",
    ],
}
"""Event recordings."""

FILES = {
    "a file answers as its network does": [
        "sw/network/test_fuzz.py::test_edited_files_are_refused_or_answer_as_their_network",
    ],
    "a stored program is not believed": [
        "sw/network/test_netfile.py::test_the_program_of_a_file_of_version_1_is_not_read",
    ],
    "edited fields, empty lists, huge numbers": [
        "sw/network/test_netfile.py::test_bad_contents_are_named",
        "sw/network/test_network.py::test_every_number_has_a_range",
    ],
    "baud 0": [
        "hw/test_spec.py::test_unsupported_values_are_refused",
        "sw/driver/test_device.py::test_impossible_configuration_is_refused",
    ],
    "a lone surrogate in a label": [
        "sw/network/test_network.py::test_names_and_labels_are_printable",
    ],
    "duplicate keys in JSON": [
        "sw/network/test_netfile.py::test_json_is_read_strictly",
    ],
    "one declared schema": [
        "sw/network/test_json_schema.py::test_the_shipped_schema_is_that_of_the_code",
        "sw/network/test_json_schema.py::test_declared_ranges_are_limits",
    ],
    "tensors with stride 0, a million channels": [
        "sw/model/test_checkpoint.py::test_contents_larger_than_the_file_are_refused",
        "sw/model/test_checkpoint.py::test_a_network_that_folds_to_more_than_a_device_holds_is_refused",
    ],
    "20,000 blocks": [
        "sw/model/test_checkpoint.py::test_blocks_without_weights_are_refused_before_they_are_built",
    ],
    "a zip archive that unpacks to gigabytes": [
        "sw/model/test_checkpoint.py::test_archives_that_unpack_to_more_than_the_file_are_refused",
    ],
    "complex weights, variances below 0": [
        "sw/model/test_checkpoint.py::test_what_does_not_fit_its_configuration_is_refused",
        "sw/model/test_checkpoint.py::test_whatever_else_a_checkpoint_holds_it_is_refused_or_a_network",
    ],
    "a port that hangs up while it is opened": [
        "sw/driver/test_device.py::test_port_that_hangs_up_while_it_is_opened",
    ],
    "a short identity": [
        "sw/driver/test_device.py::test_what_is_too_short_for_an_identity_is_no_board",
        "sw/driver/test_device.py::test_identity_of_another_length_is_refused",
    ],
    "a short or long announcement": [
        "sw/driver/test_device.py::test_announcement_of_another_length_is_described",
        "sw/driver/test_board.py::test_announcement_of_another_length_is_no_lost_run",
    ],
    "a class beyond the last one": [
        "sw/driver/test_board.py::test_class_that_is_not_that_of_the_largest_logit_is_refused",
    ],
    "escape characters in a board's name": [
        "hw/test_spec.py::test_values_that_do_not_fit_one_another_are_refused",
        "sw/driver/test_device.py::test_impossible_configuration_is_refused",
    ],
    "fuzzers, small": [
        "sw/network/test_fuzz.py::test_edited_files_are_refused_or_answer_as_their_network",
        "sw/model/test_fuzz.py::test_edited_checkpoints_are_refused_or_networks",
        "sw/driver/test_fuzz.py::test_boards_that_send_anything",
        "sw/data/test_events_formats.py::test_damaged_files_raise_nothing_else",
    ],
    "fuzzers, large": [
        "sw/network/test_fuzz.py::test_many_edited_files_are_refused_or_answer_as_their_network",
        "sw/model/test_fuzz.py::test_many_edited_checkpoints_are_refused_or_networks",
        "sw/driver/test_fuzz.py::test_many_boards_that_claim_or_send_anything",
    ],
    "Ctrl-C": [
        "test_commands.py::test_ctrl_c_ends_a_command_even_if_an_imported_module_ignores_it",
        "sw/cli/test_run.py::test_ctrl_c_leaves_board_and_files_in_order",
        "sw/test_files.py::test_an_interrupted_write_leaves_the_old_file",
    ],
    "two exports to one file": [
        "sw/test_files.py::test_two_writers_leave_the_whole_file_of_one",
    ],
}
"""What a file or a board may do."""

DOCUMENTS = {
    "a model written from the page alone": [
        "test_independent_model.py::test_random_networks",
        "test_independent_model.py::test_the_shipped_network",
        "test_independent_model.py::test_the_model_imports_nothing_of_the_product",
    ],
    "it has every feature": [
        "test_independent_model.py::test_random_networks_have_every_feature",
    ],
    "ties in argmax": [
        "test_independent_model.py::test_equal_logits_give_the_first_class",
    ],
    "rounding of shifts, order of leak, sum, bias, threshold, reset": [
        "test_independent_model.py::test_the_page_has_a_neuron_step_by_step",
    ],
    "all fields and values": [
        "test_independent_model.py::test_the_page_names_every_field_and_value",
        "test_docs.py::test_network_file_document_has_the_format",
    ],
    "JSON Schema": [
        "sw/network/test_json_schema.py::test_documents_are_accepted",
        "sw/network/test_json_schema.py::test_other_documents_are_refused",
    ],
}
"""Documents that suffice."""


def test_every_example_has_its_tests() -> None:
    found: dict[str, set[str]] = {}
    for examples in (OWN_DATA, NETWORKS, RECORDINGS, FILES, DOCUMENTS):
        for example, tests in examples.items():
            for test in tests:
                file, _, name = test.partition("::")
                if file not in found:
                    text = (TESTS / file).read_text()
                    found[file] = set(re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE))
                assert name in found[file], f"{example}: there is no {test}"
