"""Every bound on what a peer may make us hold or do, in one place.

Each bound has a written answer to "what when full": it stands beside the bound.
"""

from crypto.checkable import CLOCK_SKEW_S

# --- cells ----------------------------------------------------------------------------------------
CELL_BYTES = 1024
CELL_HEADER_BYTES = 8
CELL_BODY_BYTES = CELL_BYTES - CELL_HEADER_BYTES

# --- contents of relay cells ----------------------------------------------------------------------
OUTBOUND_CONTENT_BYTES = 968
INBOUND_CONTENT_BYTES = 1000
CONTENT_HEADER_BYTES = 4
MESSAGE_BYTES = 8
PING_BYTES = 8
ANSWER_CELL_BYTES = 984
RESPONSE_BYTES = MESSAGE_BYTES + ANSWER_CELL_BYTES

NODE_ID_BYTES = 32
MAX_UNIX_TIME = (1 << 40) - 1
FRAGMENT_HEADER_BYTES = MESSAGE_BYTES + 2 + 2
NEXT_FRAGMENT_BYTES = OUTBOUND_CONTENT_BYTES - CONTENT_HEADER_BYTES - FRAGMENT_HEADER_BYTES
FIRST_FRAGMENT_BYTES = NEXT_FRAGMENT_BYTES - NODE_ID_BYTES
MAX_CLOVE_FRAGMENTS = 640
"""A fragment that claims a longer clove is malformed."""
MAX_CLOVE_BYTES = FIRST_FRAGMENT_BYTES + (MAX_CLOVE_FRAGMENTS - 1) * NEXT_FRAGMENT_BYTES
"""A client refuses to send a longer sealed clove."""

# --- circuits at a relay: over a limit, the BUILD is answered by DESTROY --------------------------
MAX_CIRCUITS = 4096
MAX_CIRCUITS_PER_NEIGHBOUR = 256
BUILDS_PER_S = 50.0
BUILD_BURST = 200
MAX_RATED_NEIGHBOURS = 4096
MAX_REPLAY_ENTRIES = 262_144
REPLAY_GENERATION_S = (2 * (CLOCK_SKEW_S // 60) + 1) * 60.0
"""For so long a build record is accepted at most: minutes either way, and the current one."""
MAX_LIFETIME_S = 3600
LIFETIME_GRACE_S = 5.0
"""Relays outlive the lifetime asked for by this, so that the client's orderly close comes first."""
RELAY_BUILD_TIMEOUT_S = 10.0
RELAY_IDLE_TIMEOUT_S = 120.0

# --- end-to-end flow control on a circuit ---------------------------------------------------------
WINDOW_CELLS = 100
ACK_CELLS = 50

# --- at a proxy (the last hop) --------------------------------------------------------------------
MAX_PARTIAL_CLOVES = 8
"""Cloves half arrived on one circuit. Over it, the circuit is destroyed."""
PARTIAL_CLOVE_TIMEOUT_S = 30.0
"""An older partial clove is dropped; the circuit lives."""
MAX_PARTIAL_BYTES = 64 * 1024 * 1024
"""Bytes of partial cloves over all circuits. Over it, the clove is dropped and its client told."""
MAX_REPLIES_PER_CIRCUIT = 64
"""Messages that a circuit awaits answers for. Over it, the oldest is forgotten and its answers refused."""
MAX_DESTINATIONS_PER_REPLY = 4
"""Model nodes that one message was delivered to. Over it, the circuit is destroyed."""
MAX_WAITING_ANSWERS = 128
"""Answer cells held while the client's window is shut. Over it, the circuit is destroyed."""

# --- at a client ----------------------------------------------------------------------------------
MAX_WAITING_FRAGMENTS = 1280
"""Clove cells held while the proxy's window is shut. Over it, `send_clove` refuses."""

# --- control frames: a longer or fuller one closes the link ---------------------------------------
MAX_SEALED_BYTES = 320 * 1024
"""One sealed clove."""
MAX_CLOVE_FRAME_BYTES = MAX_SEALED_BYTES + 64
"""Body of a CloveDelivered."""
MAX_SMALL_FRAME_BYTES = 1100
"""Body of a frame that carries no list and no clove; an answer cell is the longest."""
MAX_REASON_BYTES = 200
"""Text of a LinkClosing; our own is cut to it."""
MAX_INDEX_ENTRIES = 4096
"""Node ids in one DirectoryIndex."""
MAX_WANTED_IDS = 1024
"""Node ids in one DescriptorsWanted."""
MAX_GIVEN_DESCRIPTORS = 64
"""Descriptors in one DescriptorsGiven."""
MAX_DESCRIPTOR_BYTES = 4096
"""One encoded, signed descriptor."""
MAX_GIVEN_FRAME_BYTES = MAX_GIVEN_DESCRIPTORS * (MAX_DESCRIPTOR_BYTES + 8) + 16
"""Body of a DescriptorsGiven."""

# --- links: `send_cell` and `send_message` say False when a queue is full -------------------------
LINK_CIRCUIT_QUEUE_CELLS = 256
"""Cells waiting on one link for one circuit. Over it, the circuit is destroyed."""
LINK_QUEUE_CELLS = 8192
"""Cells waiting on one link for all its circuits. Over it, the circuit that sent last is destroyed."""
LINK_CONTROL_QUEUE_BYTES = 4 * 1024 * 1024
"""Control frames waiting on one link. Over it, the message isn't taken."""
MAX_LINKS = 1024
"""Links of one node. Over it, dials fail and inbound connections are refused."""
MAX_PENDING_ACCEPTS = 128
"""Inbound connections that haven't greeted us yet. Over it, further ones are refused."""

# --- prompts, at both ends ------------------------------------------------------------------------
MAX_PATHS = 8
"""Paths of one answer, n at most. A message with more is malformed."""
MAX_PROMPT_BYTES = 512 * 1024
"""The message M, padding included. A client refuses to send a longer one."""
MAX_PROMPT_LIFETIME_S = 600
"""A prompt that expires later than this and the skew of clocks allow, or has expired by more, is dropped."""

# --- prompts, at a model node ---------------------------------------------------------------------
MAX_PARTIAL_PROMPTS = 1024
MAX_PARTIAL_PROMPTS_PER_PROXY = 128
MAX_PARTIAL_PROMPT_BYTES = 64 * 1024 * 1024
"""Prompts of which too few cloves have come. Over one of these, the oldest is dropped."""
PARTIAL_PROMPT_TIMEOUT_S = 30.0
MAX_REMEMBERED_PROMPTS = 65_536
"""Prompts that can't be replayed because we remember them. Over it, new prompts are dropped."""
MAX_UPDATES = 1024
"""Updates of one answer. Over it, further ones are dropped."""

# --- answers, at both ends ------------------------------------------------------------------------
MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""The whole stream of one answer. A model node can't write more; at a client a longer one is malformed."""
MAX_CHECKPOINT_BYTES = 400
"""One checkpoint of an answer. A longer one is malformed."""
CHECKPOINT_S = 0.25
"""A model node signs no more often. With `CHECKPOINT_AGE_SHARE` this bounds what a long answer's stream carries."""
CHECKPOINT_AGE_SHARE = 1 / 1000
"""Nor before so much of the time since its first token has passed: 0.25 s up to four minutes, 3.6 s after an hour."""
MAX_CHECKPOINTS = 4096
"""Of one attempt at an answer: more than an hour needs. A model node stops; at a client more are malformed."""

# --- answers, at a client -------------------------------------------------------------------------
MAX_ATTEMPTS = 8
"""Nodes that give parts of one answer. Over it, the answer ends with the error of the last one."""
MAX_FRUITLESS_ATTEMPTS = 3
"""Failures in a row without a token between them. Over it, the same."""
MAX_EVENT_BYTES = 1 << 20
"""One event of an answer; a receipt takes about 25 bytes a token. A longer one ends the answer as malformed."""
MAX_BLOCKS_AHEAD = 1024
"""Fragments of blocks further ahead are dropped; they are asked for again when their turn comes."""
MAX_DHT_RECORDS = 4096
"""Descriptors kept for the Kademlia table. Over it, the oldest is dropped."""

# --- the directory --------------------------------------------------------------------------------
MAX_DESCRIPTORS = 4096
MAX_DIRECTORY_BYTES = 8 * 1024 * 1024
"""Descriptors held, and their bytes. Over either, nodes that aren't known yet are not taken in."""
MAX_ASKED_DESCRIPTORS = MAX_GIVEN_DESCRIPTORS
"""Descriptors asked for at a time, so that one answer holds them all; the rest waits."""
NEW_NODES_PER_S = 16.0
NEW_NODE_BURST = 1024
"""Nodes that one neighbour may make known to us. Over it, they are asked for later."""
INDEX_ENTRIES_PER_S = 1024.0
INDEX_ENTRY_BURST = 4 * MAX_INDEX_ENTRIES
"""Index entries of one neighbour that we look at. Over it, the index is dropped; a later digest brings it back."""
DESCRIPTORS_GIVEN_PER_S = 256.0
DESCRIPTOR_GIVEN_BURST = 2 * MAX_DESCRIPTORS
"""Descriptors that we send one neighbour. Over it, what it asks for is not answered."""

# --- model groups ---------------------------------------------------------------------------------
MAX_GROUP_MEMBERS = 1024
"""Members whose logs are kept. Over it, further ones are not taken in."""
MAX_ENTRY_BLOCKS = 512
"""Blocks that one entry of a log mentions. A longer one is malformed."""
MAX_LOG_BLOCKS = 1 << 16
"""Blocks that one log mentions since its base. Over it, entries are not taken until the next base."""
MAX_LOG_ENTRIES = 4096
"""Entries of one log since its base. Over it, the same."""
MAX_PREFILL_TOKEN_S, MAX_ATTENDED_S, MAX_STEP_S, MAX_ANSWER_WAIT_S = 60.0, 1.0, 600.0, 86_400.0
MIN_PREFILL_TOKEN_S = 2.0**-30
MAX_CHUNK_TOKENS, MAX_QUEUED_TOKENS, MAX_RUNNING_ANSWERS = 1 << 20, 1 << 24, 4096
"""What a member can say of its speed and load. A report out of these bounds is malformed."""
MAX_VECTOR_ROWS = 2 * MAX_GROUP_MEMBERS
"""Rows of one GroupVector. A longer one is malformed."""
MAX_VECTOR_FRAME_BYTES = 22 * MAX_VECTOR_ROWS + 64
"""Body of a GroupVector."""
MAX_NEWS_ITEMS = 1024
"""Entries, and reports of load, in one GroupNews."""
MAX_NEWS_FRAME_BYTES = 64 * 1024
"""Body of a GroupNews. What does not fit is left for the next one."""
BLOB_HEADER_BYTES = 3
"""What an entry or report takes in a GroupNews beside itself, at most."""
GROUP_SEND_BYTES_PER_S = 32 * 1024.0
GROUP_SEND_BURST_BYTES = 256 * 1024
"""Vectors and news for one neighbour. Over it, what it lacks is left for later."""
GROUP_RECEIVE_BYTES_PER_S = 64 * 1024.0
GROUP_RECEIVE_BURST_BYTES = 512 * 1024
"""Vectors and news of one neighbour. Over it, a message is dropped; what it brought comes again later."""
GROUP_MESSAGE_BYTES = 256
"""The least that a message counts as, so that very short ones are not free."""
ENTRY_COST = 16
"""Blocks that an entry counts as, beside those it mentions."""
LOG_BURST_BLOCKS = MAX_LOG_BLOCKS + ENTRY_COST * MAX_LOG_ENTRIES
LOG_BLOCKS_PER_S = 256.0
"""What we take of one member's log: all of the longest one at once, then so much a second."""
LOG_BASE_BURST, LOG_BASES_PER_S = 16, 0.125
"""Bases that we take of one member's log. Over this or the last, the log stands still for STANDSTILL_S."""
LOAD_BURST, LOADS_PER_S = 64, 16.0
"""Reports of one member's load. Over it, they are dropped."""
STANDSTILL_S = 10.0

# --- prompts handed over between members ----------------------------------------------------------
MAX_HAND_BYTES = MAX_PROMPT_BYTES + 4096
"""An encoded prompt. A longer one is malformed."""
MAX_HAND_OTHERS = 8
MAX_HAND_PART_BYTES = 64 * 1024
"""Bytes of one PromptPart or EventsPart."""
MAX_HAND_FRAME_BYTES = MAX_HAND_PART_BYTES + 64
MAX_ASKED_BLOCKS = 8192
"""Blocks that a WaitAsked names. What lies behind them makes no difference to who answers soonest."""
MAX_ASKED_FRAME_BYTES = 8 * MAX_ASKED_BLOCKS + 64
MAX_HANDED_PROMPTS = 256
MAX_HANDED_PROMPTS_PER_MEMBER = 64
"""Prompts of others that are answered or half here. Over one of these, a further one is refused with HandEnded."""
MAX_PARTIAL_HAND_BYTES = 16 * 1024 * 1024
"""Prompts half here, over all members. Over it, the same."""
HAND_MESSAGES_PER_S = 64.0
HAND_MESSAGE_BURST = 256
"""WaitAsked of one member. Over it, they are not answered."""
