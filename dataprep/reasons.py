"""Why a record is rejected, repaired or warned about: one code, one way out each."""

from __future__ import annotations

REJECTIONS: dict[str, str] = {
    # The record as text.
    "invalid_json": "correct the JSON of this record, or write the file again with json.dump",
    "not_an_object": "each record must be a JSON object with 'conversations'",
    "invalid_utf8": "save the source as UTF-8",
    "bad_id": "make 'id' a string or a number",
    "field_conflict": "rename one of the two fields",
    "other_form": "convert records of another form on their own, with their --format",
    "video_record": "leave it out, or give frames of the video as images",
    "audio_record": "leave it out, or write down what is said in it",
    "preference_record": "train on one answer: write it as a gpt turn, or leave the record out",
    "unread_field": "write what the field says into the conversation, or remove the field",
    # The conversation.
    "missing_conversations": "add 'conversations', a list of {'from': ..., 'value': ...}",
    "bad_conversations": "make 'conversations' a list of {'from': ..., 'value': ...}",
    "empty_conversation": "add at least one human and one gpt turn, or drop the record",
    "bad_turn": "make the turn an object with 'from' and 'value'",
    "missing_role": "add 'from': 'human' or 'gpt' to the turn",
    "unknown_role": "use 'human' and 'gpt', and 'system' for a first turn only",
    "missing_value": "add 'value' to the turn",
    "bad_value": "make 'value' a string",
    "empty_value": "fill the turn's 'value', or drop the turn",
    "starts_with_answer": "begin with a human turn (a system turn may come before it)",
    "roles_not_alternating": "merge the two turns, or add the missing one between them",
    "no_answer": "end with a gpt turn: without an answer nothing is trained",
    "nul_in_text": "remove the NUL character from the text",
    "lone_surrogate": "replace the half of a surrogate pair in the text; it is no character",
    # The images against the text.
    "bad_image_field": "make 'image' a path or a list of paths, or remove it for text only",
    "bad_embedded_image": "give the image as base64, such as 'data:image/jpeg;base64,...'",
    "image_in_answer": "show the image in a human turn: no image goes into another turn",
    "placeholder_missing": "put '<image>' where the image belongs, or pass --placeholder insert",
    "placeholder_mismatch": "write '<image>' once for each image, in human turns",
    # The record against the layout.
    "literal_placeholder": "write '<image>' another way: it would be taken for an image's place",
    "bad_document": "correct the lists of texts and images that the message names",
    "is_document": "convert documents with --layout interleaved or --layout similarity",
    "no_text": "add a text: without one nothing is trained",
    "unfit_layout": "convert with the layout that the message names, or change the record",
    # The image file.
    "bad_path": "correct the path",
    "remote_image": "download the image and give its path under --images",
    "absolute_path": "give the path relative to --images",
    "path_traversal": "move the image under --images and correct the path",
    "symlink_outside": "copy the file that the link leads to under --images",
    "missing_image": "add the file, correct the path, or correct --images",
    "not_a_file": "give the path of a file",
    "unreadable_image": "make the file readable for this user",
    "empty_image": "copy the image again: it has no bytes",
    "truncated_image": "copy or download the image again: its end is missing",
    "not_an_image": "replace the file: its bytes are no image that is known here",
    "corrupt_image": "replace the file, or save it again with an image editor",
    "too_many_pixels": "shrink the image, or raise --pixel-limit if you trust it",
    "damaged_archive": "copy or download the archive or table again: it is damaged there",
    "image_too_large": "re-encode the image: no single file may exceed 512 MiB",
}
"""Rejected records go to quarantine.jsonl with one of these codes: code -> what fixes it."""

REPAIRS: dict[str, str] = {
    "extension_corrected": "the member is named for what the bytes are, not for the file's name",
    "placeholder_inserted": "'<image>' was put before the first human turn (--placeholder insert)",
    "placeholder_renamed": "another mark for an image, such as <ImageHere>, became '<image>'",
    "placeholder_added": "'<image>' was put before a question whose row lists images beside it",
    "id_added": "a record without 'id' got its index as id",
    "prompt_left_out": "the question beside a caption stays in the JSON (--layout captioning)",
}

WARNINGS: dict[str, str] = {
    "duplicate_id": "records that share their id with an earlier one; all are kept",
    "repeated_image": "image uses beyond the first use of the same path; all are kept",
    "placeholder_in_answer": "gpt turns with a literal '<image>': plain text, no image goes there",
    "byte_order_mark": "the source begins with a byte order mark, which was skipped",
    "empty_split": "splits that got no sample",
    "exclude_unreadable": "records and images of --exclude sets that cannot be read: not compared",
    "filter_unknown": "records left out because a --filter asks for what they do not have",
}
