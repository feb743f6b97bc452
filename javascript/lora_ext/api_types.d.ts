// What the API answers. Made by `python tests/api_types.py` from the types that its routes return.

/** What became of an upload. */
export interface AddedPictures {
    /** The data set; "" where nothing was added to a new one. */
    dataset: string;
    /** Names of the pictures that were added. */
    added: string[];
    /** How many captions came with them. */
    captions: number;
    /** Pictures that are there already. */
    duplicates: DuplicatePicture[];
    /** Files that are left out. */
    refused: RefusedFile[];
}

/** What axes can be. */
export interface AxesAnswer {
    kinds: AxisExample[];
    /** Training run whose epochs can be compared → its files. */
    runs: Record<string, string[]>;
}

/** A kind of axis. */
export interface AxisExample {
    name: string;
    title: string;
    /** An axis of this kind, as text. */
    example: string;
}

/** What a block analysis says of a file of the library. */
export interface BlockAnalysisAnswer {
    /** the LoRA's name. */
    lora: string;
    /** the method. */
    way: string;
    /** block label → share, rounded. */
    shares: Record<string, number>;
    /** the share of layers outside the layout. */
    outside: number;
    /** labels of the blocks to keep. */
    keep: string[];
    /** the line for the presets file. */
    preset: string;
    /** which blocks to keep, as a sentence. */
    text: string;
    /** The heat map, by its path below the output folder. */
    map: string;
    /** Block → its picture by its path below the output folder; "" → the one to measure from. */
    pictures: Record<string, string>;
    /** How many positions the layout of block weights has. */
    layout: number;
    /** The file's name in the library. */
    name: string;
    /** Its file name without the suffix. */
    title: string;
}

/** What the changes of two files, the first and the second, have in common in one block. */
export interface BlockConflict {
    /** The block's label, "" for layers of no block, "all" for the whole files. */
    block: string;
    /** How many layers both files change. */
    layers: number;
    /**
     * 0 where the files share no more than unrelated ones do, 1 where one of them lies wholly in the directions of the
     * other; the larger of both files' values.
     */
    interference: number;
    /** ⟨ΔWa, ΔWb⟩ / (‖ΔWa‖·‖ΔWb‖) over the block: above 0 the changes add up, below 0 they cancel. */
    cosine: number;
    /** The share of the first file's energy ‖ΔW‖² in the directions of the second, and the other way round. */
    inside: [number, number];
    /** `inside` as unrelated files of these ranks have it. */
    by_chance: [number, number];
    /**
     * The smallest angle in degrees between directions that the files write to, the mean of all shared layers; 90
     * where none is shared.
     */
    output_angle: number;
    /** The same of the directions that they read from. */
    input_angle: number;
    /** ‖ΔW‖ of both files in this block, at their weights. */
    norms: [number, number];
}

/** The positions of a block-weight vector. */
export interface BlockLayoutLabels {
    name: string;
    /** The block that each position is for. */
    labels: string[];
}

/** How much a block's layers change. */
export interface BlockNorm {
    /** The block's label; "" for layers of no block. */
    block: string;
    /** How many layers of the block the file has. */
    layers: number;
    /** Their ‖ΔW‖ (Frobenius) at weight 1; null where none has a norm without the base model's weights. */
    norm: number | null;
    /** How many layers have no norm without the base model's weights. */
    need_base: number;
}

/** One size. */
export interface BucketReport {
    /** (width, height) in pixels. */
    size: [number, number];
    /** Number of images. */
    pictures: number;
    /** Samples in the first epoch. */
    turns: number;
    /** Batches in the first epoch. */
    batches: number;
}

/** What came of changing or deleting several files: the names of those that it was done with, and the others. */
export interface ChangedFiles {
    done: string[];
    failed: FailedFile[];
}

/** What came of a merge into a checkpoint. */
export interface CheckpointResult {
    /** The tool's report; its `outputs` are left out, as they are paths of this system. */
    report: ReportData | SplitReportData;
    /** What the library calls the files that were written. */
    files: string[];
    /** The checkpoint that was written, by its path below the checkpoint folder. */
    checkpoint: string;
}

/** What lists offer, and what this program can do. */
export interface Choices {
    samplers: string[];
    schedulers: string[];
    /** Paths below the checkpoint folders; "" is the small model that comes with this program. */
    checkpoints: string[];
    /** Whether there is a Generate panel. */
    draws: boolean;
    /** Whether the page has the web UI's prompt fields. */
    prompts: boolean;
}

/** One folder. */
export interface ConceptReport {
    /** Its name. */
    folder: string;
    /** The caption of its images without one. */
    concept: string;
    /** Number of images. */
    pictures: number;
    /** How often each is used in an epoch. */
    repeats: number;
    /** Samples in the first epoch. */
    turns: number;
    /** Whether they are regularisation images. */
    regularisation: boolean;
    /** Number of images without a caption of their own. */
    without_caption: number;
}

/** How much the changes of files have in common. */
export interface ConflictAnswer {
    /** The files' names in a tag. */
    names: string[];
    /** Each pair of files. */
    pairs: FilePairConflict[];
    /** The suggested split of the blocks, one item for each file. */
    split: FileSplit[];
    /** Sentences on what was not measured, and on names that a tag cannot tell apart. */
    warnings: string[];
    /** Sentences that inform, such as which files do nearly the same. */
    notes: string[];
}

/** A dataset. */
export interface DatasetAnswer {
    /** Those without a caption first, then by bucket. */
    pictures: DatasetPicture[];
    /** Bucket → how many pictures. */
    buckets: Record<string, number>;
    /** The most frequent tags → how many captions have them. */
    tags: Record<string, number>;
    /** How many pictures have no caption. */
    missing: number;
    /** A sentence for each picture that cannot be read. */
    skipped: string[];
}

/** A picture of a dataset. */
export interface DatasetPicture {
    /** Its path below the dataset. */
    name: string;
    /** Width and height in pixels, of the part that is trained. */
    size: number[];
    /** Width×height that it is trained at. */
    bucket: string;
    /** Its caption; "" without one. */
    caption: string;
    /** The concept that its folder's name gives. */
    concept: string;
    /** Whether it has a caption of its own. */
    captioned: boolean;
    /** How often an epoch shows it. */
    repeats: number;
    /** A number that changes with it, its crop and its mask. */
    time: number;
    /** Whether a part of it is trained. */
    cropped: boolean;
    /** Whether a painted mask leaves something out. */
    masked: boolean;
}

/** What describing the pictures of a dataset did. */
export interface DescribedPictures {
    /** How many captions were written. */
    written: number;
    /** How many pictures have a caption already. */
    had: number;
    /** A sentence for each picture that was left out. */
    skipped: string[];
}

/** A picture of an upload that is there already. */
export interface DuplicatePicture {
    /** Its name. */
    file: string;
    /** The name of the same picture in the data set. */
    same_as: string;
}

/** A file of a group. */
export interface DuplicateRow {
    /** Its path below the LoRA folder, without the suffix. */
    name: string;
    /** What a prompt calls it: the shortest name that means this file alone. */
    call: string;
    /** Its file name without the suffix. */
    title: string;
    /** The name that its metadata gives it. */
    alias: string;
    /** Its size. */
    bytes: number;
    /** When it was changed, in seconds since 1970. */
    time: number;
    /** "SD1", "SD2", "SDXL" or "unknown"; null while it was not read yet. */
    base: string | null;
    /** Such as "LoRA" or "LoKr"; null while it was not read yet. */
    kind: string | null;
    /** The commonest rank of its layers. */
    rank: number | null;
    /** Whether its layers have different ranks. */
    mixed: boolean;
    /** Why it cannot be used; null where it can. */
    error: string | null;
    /** When the picture or video beside it was changed, in seconds since 1970; null without one. */
    thumb: number | null;
    /** Whether that is a video. */
    moving: boolean;
    /** What the user has marked it with. */
    marks: FileMarks;
    /** The words that belong into the prompt with its tag; "" where none are known. */
    prompt_words: string;
    /** Where the search was found, where that is not the name. */
    found: FoundText | null;
    /** What it is to the group's first file. */
    relation: WeightRelation;
    /** Whether it may be deleted: not part of the installation. */
    removable: boolean;
}

/** Files with the same network. */
export interface DuplicatesResult {
    /** Rows of the library; the file of the highest rank and precision is the first of each group. */
    groups: DuplicateRow[][];
    /** How many files were compared. */
    files: number;
    /** How many of them were compared by their bytes alone. */
    by_content_alone: number;
}

/** How far a training run is. */
export interface EpochProgress {
    epoch: number;
    epochs: number;
    /** Seconds to go; null where that is not known. */
    left: number | null;
}

/** What a run is expected to need; null where a number is not finite. */
export interface ExpectedCost {
    /** Bytes of the model's weights. */
    weights: number | null;
    /** Bytes of what is trained, with its gradients and the optimizer's state. */
    training: number | null;
    /** Bytes of a batch. */
    activations: number | null;
    /** Of a step; 0 where the speed is not known. */
    seconds: number | null;
    /** Bytes that are free; 0 where that is not known. */
    have: number | null;
    /** What would make the run smaller. */
    spare: string;
    /** All together, with what the libraries take. */
    bytes: number | null;
    /** Of the whole run; 0 where the speed is not known. */
    total_seconds: number | null;
    /** The true time is expected between this */
    least_seconds: number | null;
    /** and this; what else keeps the device busy is not known. */
    most_seconds: number | null;
}

/** The length of a training, without what it draws: regularisation pictures, samples, a sheet. */
export interface ExpectedLength {
    /** Its steps. */
    steps: number;
    /** Seconds that it takes at least, as expected; 0 where the device's speed is not known. */
    least_seconds: number;
    /** Seconds that it takes at most, as expected. */
    most_seconds: number;
}

/** A file with which something could not be done, and why. */
export interface FailedFile {
    name: string;
    error: string;
}

/** What the user has marked a file with. */
export interface FileMarks {
    /** The tags; those of Lora-Manager or a model site while the user has set none. */
    tags: string[];
    /** Whether it is a favourite. */
    favourite: boolean;
    /** 1 to 5; 0 for none. */
    rating: number;
    /** When it was last put into a prompt from the library, in seconds since 1970; 0 for never. */
    used: number;
}

/** A file that was moved. */
export interface FileMove {
    /** What the library called it. */
    name: string;
    /** What the library calls it now. */
    to: string;
}

/** The name of a file in the library. */
export interface FileName {
    name: string;
}

/** Names of files in the library, in order. */
export interface FileNames {
    names: string[];
}

/** The comparison of two files. */
export interface FilePairConflict {
    /** The first file's name. */
    first: string;
    /** The second file's name. */
    second: string;
    /** The whole files. */
    total: BlockConflict;
    /** Each block that at least one of the files changes, in the U-Net's order. */
    blocks: BlockConflict[];
}

/** The settings that a file was trained with. */
export interface FileSettings {
    /** Values of the form by name. */
    settings: Record<string, any>;
    /** A sentence for each value that is not known here. */
    told: string[];
}

/** The blocks that one file keeps. */
export interface FileSplit {
    /** The file's name. */
    name: string;
    /** Its weight. */
    weight: number;
    /** Labels of the blocks that it keeps, in the U-Net's order. */
    keeps: string[];
    /** Labels of the blocks that it leaves to another file. */
    gives_up: string[];
    /** The share of its energy ‖ΔW‖² that it keeps. */
    kept: number;
    /** Its block weights, the values of a preset; "" where it keeps everything. */
    lbw: string;
    /** Its tag. */
    tag: string;
}

/** The file that panels begin with. */
export interface FirstFile {
    /** The newest file that fits the model, else the newest one; null without any. */
    row: LibraryRow | null;
}

/** A job that was taken off the list. */
export interface ForgottenJob {
    gone: true;
}

/** A training option. */
export interface FormField {
    name: string;
    help: string;
    /** The part of the form that it is in. */
    group: string;
    /** "bool", "int", "float", "str", "ints", "floats" or "strs". */
    type: string;
    /** "folder" or "file" for a path, else "". */
    kind: string;
    /** The accepted values; empty where others are accepted. */
    choices: string[];
    /** The least number; null without one. */
    low: number | null;
    /** The greatest number; null without one. */
    high: number | null;
    /** Whether it is shown without being asked for. */
    basic: boolean;
    /** The modes of training that use it; empty where all do. */
    modes: string[];
    default: any;
    /** Whether null is a value. */
    optional: boolean;
}

/** Where a search was found in what is not the file's name. */
export interface FoundText {
    /** "trigger words", "notes", "tags", "base model", "description", "title" or "negative text". */
    field: string;
    /** The part of the text around it. */
    text: string;
}

/** Pictures of the Generate panel. */
export interface GenerateResult {
    pictures: GeneratedImage[];
    /** What is to be said of tags and files, a sentence each. */
    notes: string[];
}

/** A picture of the Generate panel. */
export interface GeneratedImage {
    /** Its path below the output folder. */
    name: string;
    /** The parameters that it was made with. */
    infotext: string;
}

/** All block-weight presets after an import. */
export interface ImportedPresets {
    presets: PresetRow[];
    /** What is wrong with the files of presets, a sentence each. */
    notes: string[];
    /** The names of those that were imported. */
    taken: string[];
}

/** The prompts after something was put into them. */
export interface InsertedPrompt {
    /** The prompt. */
    prompt: string;
    /** The negative prompt. */
    negative: string;
    /** Names of LoRA files that the library does not have. */
    missing: string[];
}

/** A job with its log, what it shows meanwhile, and its result. */
export interface JobAnswer {
    /** Names the job in routes. */
    id: string;
    /** What sort of work it is, such as "train" or "merge". */
    kind: string;
    /** What the work is about, for people. */
    title: string;
    /** The queue that it is in: "model" (one job at a time) or "files" (several). */
    lane: string;
    state: "waiting" | "running" | "done" | "failed" | "cancelled";
    /** How much is done, in whatever unit `total` has. */
    done: number;
    /** How much there is to do; 0 while that is not known. */
    total: number;
    /** The stage that the job is in; empty where `left` is of the whole work. */
    text: string;
    /** Why it failed; null where it did not. */
    error: string | null;
    /** When it was queued, in seconds since 1970. */
    created: number;
    /** When it started; null while it waits. */
    started: number | null;
    /** When it ended; null before. */
    ended: number | null;
    /** Seconds to go; null where that cannot be told. */
    left: number | null;
    /** Whether the user has cancelled it and it still works. */
    stopping: boolean;
    /** Whether it is done because the user has stopped it: its result is what it had by then. */
    stopped: boolean;
    /** The newest lines of its log. */
    log: string[];
    /** What may be shown while it works; its fields depend on the kind. */
    live: TrainProgress | SheetLive | NothingLive;
    /** What the work returned; null before, and where it failed. */
    result: BlockAnalysisAnswer | ChangedFiles | CheckpointResult | ConflictAnswer | DescribedPictures | DuplicatesResult | GenerateResult | PreflightResult | PreviewResult | SheetDetails | SuggestedTraining | ToolResult | TrainResult | null;
}

/** All jobs, oldest first; those that wait come last. */
export interface JobList {
    jobs: JobSummary[];
    /** Changes when LoRA files came, went or changed. */
    library: [number, number, number];
    /** The extension that applies tags instead of this one; "" where none does. */
    applied_by: string;
}

/** A job as a list shows it. */
export interface JobSummary {
    /** Names the job in routes. */
    id: string;
    /** What sort of work it is, such as "train" or "merge". */
    kind: string;
    /** What the work is about, for people. */
    title: string;
    /** The queue that it is in: "model" (one job at a time) or "files" (several). */
    lane: string;
    state: "waiting" | "running" | "done" | "failed" | "cancelled";
    /** How much is done, in whatever unit `total` has. */
    done: number;
    /** How much there is to do; 0 while that is not known. */
    total: number;
    /** The stage that the job is in; empty where `left` is of the whole work. */
    text: string;
    /** Why it failed; null where it did not. */
    error: string | null;
    /** When it was queued, in seconds since 1970. */
    created: number;
    /** When it started; null while it waits. */
    started: number | null;
    /** When it ended; null before. */
    ended: number | null;
    /** Seconds to go; null where that cannot be told. */
    left: number | null;
    /** Whether the user has cancelled it and it still works. */
    stopping: boolean;
    /** Whether it is done because the user has stopped it: its result is what it had by then. */
    stopped: boolean;
}

/** The layer that lost most, in a report's JSON. */
export interface LargestLoss {
    layer: string;
    kept: number;
    loss: number;
}

/** The layouts of block weights. */
export interface LayoutsAnswer {
    /** Number of block weights → its layout. */
    layouts: Record<string, BlockLayoutLabels>;
    /** The blocks of SDXL's U-Net. */
    sdxl: string[];
}

/** A page of the library. */
export interface LibraryPage {
    /** How many files match. */
    total: number;
    /** How many files were not read yet. */
    pending: number;
    rows: LibraryRow[];
    /** As in `FoundFiles`. */
    facets: Record<string, Record<string, number>>;
    /** As in `FoundFiles`. */
    letters: Record<string, number>;
    /** What is wrong with the folders, a sentence each. */
    errors: string[];
}

/** A LoRA file in a list. */
export interface LibraryRow {
    /** Its path below the LoRA folder, without the suffix. */
    name: string;
    /** What a prompt calls it: the shortest name that means this file alone. */
    call: string;
    /** Its file name without the suffix. */
    title: string;
    /** The name that its metadata gives it. */
    alias: string;
    /** Its size. */
    bytes: number;
    /** When it was changed, in seconds since 1970. */
    time: number;
    /** "SD1", "SD2", "SDXL" or "unknown"; null while it was not read yet. */
    base: string | null;
    /** Such as "LoRA" or "LoKr"; null while it was not read yet. */
    kind: string | null;
    /** The commonest rank of its layers. */
    rank: number | null;
    /** Whether its layers have different ranks. */
    mixed: boolean;
    /** Why it cannot be used; null where it can. */
    error: string | null;
    /** When the picture or video beside it was changed, in seconds since 1970; null without one. */
    thumb: number | null;
    /** Whether that is a video. */
    moving: boolean;
    /** What the user has marked it with. */
    marks: FileMarks;
    /** The words that belong into the prompt with its tag; "" where none are known. */
    prompt_words: string;
    /** Where the search was found, where that is not the name. */
    found: FoundText | null;
}

/** A LoRA file with all that is in it but the tensors: the row of a list and the report of `inspect`. */
export interface LoraFileDetails {
    /** Where the file is. */
    path: string;
    /** Its size. */
    bytes: number;
    /** The first 12 digits of its content's hash. */
    hash: string;
    /** The hash in its metadata where that is not the content's. */
    wrong_hash: string | null;
    /** The kind of network, such as "LoRA" or "LoKr". */
    variant: string;
    /** The unit of a DyLoRA. */
    dylora_unit: number | null;
    /** Kind of layer → how many layers. */
    kinds: Record<string, number>;
    /** "SD1", "SD2", "SDXL" or "unknown". */
    family: string;
    /** The key format. */
    dialect: string;
    /** How many layers it has. */
    layers: number;
    /** Part of the model → how many layers. */
    parts: Record<string, number>;
    /** Rank → how many layers, without those whose change is 0: `resize` writes these at rank 1. */
    ranks: Record<string, number>;
    /** Alpha, "rank" where it is not given → how many of these layers. */
    alphas: Record<string, number>;
    /** Data type → how many layers. */
    dtypes: Record<string, number>;
    /** Each block of the file, in the U-Net's order. */
    blocks: BlockNorm[];
    /** Its metadata. */
    metadata: Record<string, string>;
    /** Its most frequent caption tags → how often they occur. */
    tags: Record<string, number>;
    /** Name of an embedding for the prompt → text encoder → shape. */
    embeddings: Record<string, Record<string, number[]>>;
    /** Keys that were not understood. */
    unread: string[];
    /** Layer → why it is skipped. */
    damaged: Record<string, string>;
    /** A sentence about a file that is not for SD1, SD2 or SDXL. */
    other: string | null;
    /** The first key with NaN or infinity. */
    not_finite: string | null;
    /** PEFT's `adapter_config.json`. */
    config: string | null;
    /** Sentences about the file. */
    notes: string[];
    /** A sentence on the alpha that is assumed where the file has none. */
    assumed: string | null;
    name: string;
    call: string;
    title: string;
    alias: string;
    time: number;
    base: string | null;
    kind: string | null;
    rank: number | null;
    mixed: boolean;
    error: string | null;
    thumb: number | null;
    moving: boolean;
    marks: FileMarks;
    prompt_words: string;
    found: FoundText | null;
    /** What the files beside it say. */
    about: SidecarInfo;
    /** Trigger words, then its most frequent caption tags. */
    words: string[];
    /** Sentences on what of the file has no effect. */
    warnings: string[];
    /** The two lengths of block weights for its base: attention blocks alone, all blocks. */
    layouts: [number, number];
    /** The shorter of them that has every block of the file. */
    layout: number;
}

/** All sets by name. */
export interface LoraSetList {
    sets: LoraSetRow[];
}

/** A set in the list. */
export interface LoraSetRow {
    /** As in `LoraSet`. */
    name: string;
    /** As in `LoraSet`. */
    tags: string[];
    /** As in `LoraSet`. */
    words: string;
    /** As in `LoraSet`. */
    negative: string;
    /** Names of its files that the library does not have. */
    missing: string[];
}

/** How many files were marked. */
export interface MarkedFiles {
    count: number;
}

/** The masks of the user. */
export interface MaskNames {
    /** Their names, sorted. */
    names: string[];
}

/** What to do about a kind of message. */
export interface MessageHelp {
    /** Its short name, which `python -m lora_ext help` takes too. */
    name: string;
    /** What such messages say; `…` stands for what differs. */
    phrases: string[];
    /** The heading of the section of the troubleshooting page that explains them. */
    heading: string;
    /** Which of its numbered points is meant; "" for all. */
    point: string;
    /** Its paragraphs and points as plain text, points with their `1. ` or `- `. */
    paragraphs: string[];
}

/** What came of moving several files. */
export interface MovedFiles {
    moved: FileMove[];
    failed: FailedFile[];
}

/** The size of pictures for which none is given. */
export interface NativeSize {
    /** Width and height in pixels; 0 where it is not known before the model is loaded. */
    side: number;
}

/** Nothing is shown while the job works. */
export interface NothingLive {
}

/** Pictures that keep other prompts as they are, drawn where they are missing. */
export interface OfferedRegularisation {
    /** Whether they suit this run. */
    on: boolean;
    /** One sentence that says why, or why not, in English. */
    reason: string;
    /** The sentence with {0}, {1} … for `values`, to be translated. */
    template: string;
    /** What stands there. */
    values: (string | number)[];
    /** The options that it takes. */
    settings: SettingWithReason[];
    /** The length of the run with them. */
    expected: ExpectedLength;
}

/** A picture below the output folder. */
export interface OutputImage {
    /** Its path below the output folder. */
    name: string;
    /** When it was changed, in seconds since 1970. */
    time: number;
}

/** Pictures below the output folder, newest first. */
export interface OutputImages {
    pictures: OutputImage[];
}

/** A sheet of before. */
export interface PastSheet {
    /** Its folder below outputs/compare. */
    folder: string;
    title: string;
    /** Whether every picture is drawn. */
    complete: boolean | null;
    /** How many cells it has. */
    cells: number;
    /** When it was changed, in seconds since 1970. */
    time: number;
}

/** Sheets of before, newest first. */
export interface PastSheets {
    sheets: PastSheet[];
}

/** What is trained of a picture. */
export interface PictureEditAnswer {
    /** Width and height of the whole picture. */
    size: number[];
    /** Left, top, width and height of the part that is trained; None for all of it. */
    crop: number[] | null;
    /** A PNG as base64 over the whole picture, whose white is learned; "" for all of it. */
    mask: string;
}

/** What is known of a run before it starts. */
export interface PreflightDetails {
    /** The folders. */
    concepts: ConceptReport[];
    /** The sizes. */
    buckets: BucketReport[];
    /** Images in a batch of one process. */
    batch_size: number;
    /** Number of processes. */
    world: number;
    /** Batches in the first epoch. */
    batches: number;
    /** Batches whose gradients make one step. */
    accumulation: number;
    /** Optimizer steps in the first epoch. */
    steps_per_epoch: number;
    /** Epochs of the run. */
    epochs: number;
    /** Optimizer steps of the run. */
    steps: number;
    /** Training images without a caption of their own. */
    without_caption: string[];
    /** Tokens of the longest caption; 0 if nothing counts them. */
    longest: number;
    /** Tokens that captions are cut to. */
    limit: number;
    /** (image, tokens) of captions above the limit, the longest first. */
    too_long: [string, number][];
    /** Groups of files with the same content. */
    duplicates: string[][];
    /** A sentence for each image that cannot be read. */
    skipped: string[];
    /** Sentences about what is possible but seldom meant. */
    notes: string[];
    /** Memory and time; None without a model. */
    expected: ExpectedCost | null;
    /** Sort of layers → how many are trained; empty without a model. */
    layers: Record<string, number>;
    /** What is counted as pictures: "pictures", "pairs" of them, or "prompts" in modes without pictures. */
    unit: "pictures" | "pairs" | "prompts";
}

/** What is known of a run before it starts. */
export interface PreflightResult {
    report: PreflightDetails;
    /** The report as text. */
    text: string;
}

/** A block-weight preset. */
export interface PresetRow {
    name: string;
    /** Its weights, as a tag has them. */
    values: string;
    /** Whether it is the user's own, which can be changed. */
    own: boolean;
    /** Whether it comes with this program. */
    builtin: boolean;
    /** Its place among the user's own; None for the others. */
    place: number | null;
}

/** All block-weight presets. */
export interface PresetsAnswer {
    presets: PresetRow[];
    /** What is wrong with the files of presets, a sentence each. */
    notes: string[];
}

/** The user's own presets as a file's text. */
export interface PresetsText {
    text: string;
}

/** Two pictures of one seed, by their paths below the output folder. */
export interface PreviewResult {
    /** Without the LoRA's tag. */
    without: string;
    /** With it. */
    applied: string;
}

/** A prompt. */
export interface PromptText {
    prompt: string;
}

/** How much of a file each rank keeps, and how large the file would be. */
export interface RankCurve {
    /** Ranks, rising. */
    ranks: number[];
    /** For each rank the share kept of the Frobenius norm of all layers together. */
    kept: number[];
    /** For each rank the size of the file. */
    bytes: number[];
}

/** A file of an upload that is left out. */
export interface RefusedFile {
    /** Its name. */
    file: string;
    /** Why. */
    reason: string;
}

/** A picture that was taken out of a data set. */
export interface RemovedPicture {
    /** Where it is now, below the data folder. */
    kept: string;
}

/** What a change of all captions changed, or would change. */
export interface ReplacedCaptions {
    /** How many captions. */
    changed: number;
    /** The first of them, before and after. */
    examples: [string, string][];
    /** A sentence for each caption that cannot be read or written, or was changed since. */
    skipped: string[];
    /** The change's number, by which it is undone; None where nothing was written. */
    undo: number | null;
}

/** A report's JSON. */
export interface ReportData {
    /** The command's name. */
    verb: string;
    /** Number of layers in the result that every source has. */
    matched: number;
    /** Source → layers that only it has. */
    only_in: Record<string, string[]>;
    /** Source → keys of it that were not understood. */
    not_understood: Record<string, string[]>;
    /** Source → layers of it that are not in the result. */
    left_out: Record<string, string[]>;
    /** Layers that are as they were. */
    unchanged: string[];
    /** The layers of the result. */
    layers: ReportRow[];
    /** All layers together. */
    totals: ReportTotals;
    /** The layer that lost most; null where nothing was lost. */
    largest_loss: LargestLoss | null;
    /** Sentences for the user. */
    notes: string[];
    /** Paths that were written. */
    outputs: string[];
}

/** One layer in a report's JSON; `survived` is the share of ΔW that survived rounding. */
export interface ReportRow {
    layer: string;
    old_rank: number | null;
    new_rank: number | null;
    kept: number;
    norm: number | null;
    note: string;
    survived: number;
}

/** All layers together in a report's JSON; see `ToolReport.kept` and `ToolReport.survived`. */
export interface ReportTotals {
    layers: number;
    rank_before: number;
    rank_after: number;
    kept: number;
    survived: number;
}

/** Samples that a run generates after its next step. */
export interface RequestedSamples {
    /** The run's job. */
    job: string;
}

/** What a resize would make. */
export interface ResizePreview {
    /** The share kept of the Frobenius norm of all layers together. */
    kept: number;
    /** The size of the file. */
    bytes: number;
    /** The lowest rank chosen. */
    least: number;
    /** The highest rank chosen. */
    most: number;
    /** The mean of the ranks chosen. */
    mean: number;
}

/** The run that made a file. */
export interface RunOfFile {
    /** Step, loss, smoothed loss, learning rates of the U-Net and of the text encoder. */
    rows: ([number, number | null, number | null, number | null, number | null])[];
    /** Its name; null where the file was not trained here. */
    run: string | null;
}

/** A training run of before; of one that failed or did not end, only a part is there. */
export interface RunRecord {
    name: string;
    job: string;
    settings: Record<string, any>;
    prompts: string;
    begun: number;
    /** When it ended, in seconds since 1970. */
    ended?: number;
    /** Why it failed. */
    error?: string;
    steps?: number;
    epochs?: number;
    loss?: number | null;
    seconds?: number;
    stopped?: boolean;
    files?: string[];
    samples?: string[];
    /** The saved state from which it can be resumed; null without one. */
    state?: string | null;
}

/** A picture's caption as it was written. */
export interface SavedCaption {
    caption: string;
}

/** A crop and mask that were saved. */
export interface SavedPictureEdit {
    /** The change's number, by which it is undone; None where nothing changed. */
    undo: number | null;
}

/** A file's new picture. */
export interface SavedThumbnail {
    /** When it was written, in seconds since 1970. */
    time: number;
}

/** Tags, or a file's text. */
export interface SetText {
    text: string;
}

/** A suggested setting. */
export interface SettingWithReason {
    /** The option. */
    name: string;
    /** Its value. */
    value: any;
    /** One sentence that says why, in English. */
    reason: string;
    /** The sentence with {0}, {1} … for `values`, to be translated. */
    template: string;
    /** What stands there; text is translated too. */
    values: (string | number)[];
}

/** The three axes of a sheet. */
export interface SheetAxes {
    x: SheetAxis;
    y: SheetAxis;
    z: SheetAxis;
}

/** An axis of a sheet. */
export interface SheetAxis {
    title: string;
    /** The axis as it was asked for. */
    asked: string;
    /** A label for each of its values. */
    labels: string[];
}

/** What every picture of a sheet is drawn from before the axes change it. */
export interface SheetBase {
    prompt: string;
    negative_prompt: string;
    seed: number;
    steps: number;
    width: number;
    height: number;
    sampler: string;
    scheduler: string;
    cfg: number;
    clip_skip: number;
    /** The LoRA that axes without a name change. */
    lora: string;
}

/** A cell of a sheet. `score` and `same_as` are there where the sheet was measured. */
export interface SheetCell {
    prompt: string;
    negative_prompt: string;
    seed: number;
    steps: number;
    width: number;
    height: number;
    sampler: string;
    scheduler: string;
    cfg: number;
    clip_skip: number;
    /** Its column, from 0. */
    x: number;
    /** Its row, from 0. */
    y: number;
    /** Its page, from 0. */
    z: number;
    /** A hash of everything that the picture is drawn from. */
    key: string;
    /** The tag that the axes change, as it stands in the prompt. */
    tag: string;
    /** The picture; null or "" where it is not drawn yet. */
    file: string | null;
    /** The picture's scores. */
    score?: SheetScore;
    /** What the picture is equal to; null where it is equal to none. */
    same_as?: string | null;
}

/** A comparison sheet. Pictures and pages are paths below the output folder. */
export interface SheetDetails {
    version: number;
    title: string;
    base: SheetBase;
    /** Whether every picture is drawn. */
    complete: boolean;
    axes: SheetAxes;
    /** By what likeness is measured; "" where the sheet was not measured. */
    measured: string;
    /** A sentence where training pictures are copied, else "". */
    warning: string;
    /** A sentence about cells that are equal, else "". */
    same: string;
    /** The cells that are suggested; null where the sheet was not measured. */
    suggested: SheetSuggestion | null;
    pages: string[];
    cells: SheetCell[];
    /** Its folder below outputs/compare. */
    folder: string;
    /** Whether it has a table of scores. */
    table: boolean;
    /** The request that it was drawn for. */
    asked: Record<string, any>;
    /** A sentence about each file that does not fit as it is; told once, by the job that has drawn it. */
    notes: string[];
}

/** What is shown of a sheet that is being drawn. */
export interface SheetLive {
    /** Its folder below outputs/compare. */
    folder: string;
    /** How many pictures it needs. */
    pictures: number;
    /** How many of them are drawn. */
    done: number;
    /** The newest of them, by their paths below the output folder. */
    newest: string[];
}

/** Scores of a picture; see `scores.Score`. Null where it was not measured. */
export interface SheetScore {
    /** Mean colour difference from the same picture without a LoRA, 0 to 1. */
    difference: number;
    /** 1 is as sharp as without a LoRA. */
    sharpness: number;
    /** Likeness to the training pictures, 1 at most. */
    likeness: number | null;
    /** 1 − distance to the nearest training picture. */
    near: number | null;
    /** The training picture that it nearly equals; "" where there is none. */
    copy_of: string;
    /** How much more of it is clipped than without a LoRA. */
    burnt: number;
    /** How much noisier it is than without a LoRA. */
    noise: number;
}

/** The cells that are suggested, and why. */
export interface SheetSuggestion {
    /** Places in the list of cells; empty where nothing is suggested. */
    cells: number[];
    reason: string;
}

/** What the files beside a LoRA file say. The web UI's come first, then Lora-Manager's, then a model site's. */
export interface SidecarInfo {
    /** The model's name. */
    title: string;
    /** The base model as the site calls it. */
    base_model: string;
    /** A description, without markup where a site wrote it. */
    description: string;
    /** The words that the web UI adds to the prompt. */
    activation_text: string;
    /** Trigger words that a model site names, or else the file itself. */
    trained_words: string[];
    /** The weight to use it with; None where none is given. */
    preferred_weight: number | null;
    /** Words for the negative prompt. */
    negative_text: string;
    /** The user's notes. */
    notes: string;
    /** Tags of Lora-Manager or the site. */
    tags: string[];
    /** Whether it is a favourite in Lora-Manager; None where that says nothing. */
    favourite: boolean | null;
    /** The names of the files that were read. */
    sources: string[];
    /** A sentence for each file that cannot be read. */
    problems: string[];
}

/** The JSON of a report of split-dylora. */
export interface SplitReportData {
    /** The command's name. */
    verb: string;
    /** Number of layers in the result that every source has. */
    matched: number;
    /** Source → layers that only it has. */
    only_in: Record<string, string[]>;
    /** Source → keys of it that were not understood. */
    not_understood: Record<string, string[]>;
    /** Source → layers of it that are not in the result. */
    left_out: Record<string, string[]>;
    /** Layers that are as they were. */
    unchanged: string[];
    /** The layers of the result. */
    layers: ReportRow[];
    /** All layers together. */
    totals: ReportTotals;
    /** The layer that lost most; null where nothing was lost. */
    largest_loss: LargestLoss | null;
    /** Sentences for the user. */
    notes: string[];
    /** Paths that were written. */
    outputs: string[];
    /** The rule by which alpha was chosen. */
    alpha: string;
}

/** Suggested settings of a run. */
export interface SuggestedTraining {
    /** The options that are not at their defaults. */
    settings: SettingWithReason[];
    /** The length of the run without regularisation. */
    expected: ExpectedLength;
    /** Pictures that keep other prompts as they are. */
    regularisation: OfferedRegularisation;
    /** Sample prompts, one a line. */
    prompts: string;
    /** How many pictures can be read. */
    pictures: number;
    /** Pictures that are there twice. */
    duplicates: DuplicatePicture[];
    /** A sentence for each picture that cannot be read. */
    skipped: string[];
}

/** A tag. */
export interface TagAnswer {
    /** The `<lora:…>` tag. */
    tag: string;
    /** The prompt with the tag in it. */
    prompt: string;
    /** What the tag will not do, and weights that look like a typing error, a sentence each. */
    notes: string[];
    /**
     * The U-Net's weight over the steps as (place, weight): places are shares of the pass from 0 to 1, steps, or noise
     * levels (sigma), which fall; empty where the weight is constant.
     */
    curve: [number, number][];
    /** What the places are. */
    curve_over: "shares" | "steps" | "noise levels";
}

/** The fields of a tag. */
export interface TagFields {
    /** the file's name as written in the tag. */
    name: string;
    /** weight of the text encoders. */
    te: number;
    /** weight of the U-Net. */
    unet: number;
    /** use only the first `dyn` ranks (for DyLoRA files); None uses all. */
    dyn: number | null;
    /** block weights as written: a preset's name or comma-separated numbers. */
    lbw: string | null;
    /** element rules as written. */
    lbwe: string | null;
    /** first step at which the U-Net part acts. An int counts steps from 0; a float is a fraction of all steps. */
    start: number | null;
    /** step before which the U-Net part stops acting; int or float as for `start`. */
    stop: number | null;
    /** the number that `X` in a preset stands for. */
    x: number | null;
    /** `start` and `stop` as text. */
    steps: TagSteps;
    /** as in `TagRequest`. */
    curve: string;
    /** as in `TagRequest`. */
    hires: string;
}

/**
 * From which step until before which step a tag acts, as text: JSON in a browser does not tell the share 1.0 from step
 * 1. "" where the tag does not say.
 */
export interface TagSteps {
    start: string;
    stop: string;
}

/** What came of a tool. */
export interface ToolResult {
    /** The tool's report; its `outputs` are left out, as they are paths of this system. */
    report: ReportData | SplitReportData;
    /** What the library calls the files that were written. */
    files: string[];
}

/** The form of a training run. */
export interface TrainForm {
    fields: FormField[];
    /** Folders that can be trained on. */
    datasets: string[];
    /** Whether the model that the web UI has loaded is trained. */
    loaded: boolean;
    /** What describes pictures here, by name. */
    captioners: string[];
}

/** Training runs of before, newest first. */
export interface TrainHistory {
    runs: RunRecord[];
}

/** What is shown of a training run at work. */
export interface TrainProgress {
    /** Its folder below outputs/train. */
    run: string;
    /** Step, loss, smoothed loss, learning rates of the U-Net and of the text encoder. */
    rows: ([number, number | null, number | null, number | null, number | null])[];
    progress: EpochProgress;
    /** Sample pictures, by their paths below the output folder. */
    samples: string[];
    /** Names of files that it has saved. */
    files: string[];
    /** Bytes in use; null where that cannot be told. */
    memory: number | null;
}

/** What came of a training job. */
export interface TrainResult {
    name: string;
    job: string;
    settings: Record<string, any>;
    prompts: string;
    begun: number;
    steps: number;
    epochs: number;
    loss: number | null;
    seconds: number;
    stopped: boolean;
    files: string[];
    samples: string[];
    state: string | null;
    ended: number;
    /** The job that draws its sheet of epochs and weights. */
    sheet?: string;
}

/** A run's losses and learning rates. */
export interface TrainingCurve {
    /** Step, loss, smoothed loss, learning rates of the U-Net and of the text encoder. */
    rows: ([number, number | null, number | null, number | null, number | null])[];
}

/** A preset of training settings. */
export interface TrainingPreset {
    name: string;
    /** Values of the form by name. */
    settings: Record<string, any>;
}

/** The user's own presets of training settings, by name. */
export interface TrainingPresetList {
    presets: TrainingPreset[];
}

/** How many bytes of a file are there. */
export interface UploadedBytes {
    bytes: number;
}

/** What a file is to the file that is kept. */
export interface WeightRelation {
    /**
     * "kept" (the file itself), "identical" (the same bytes but for metadata), "same" (the same ΔW in other keys or
     * factors), "precision" (rounded to another dtype), "resize" (some of its directions alone).
     */
    kind: string;
    /** ‖ΔW‖ of it as a share of the kept file's. */
    share: number;
    /** Of its numbers. */
    dtype: string;
}

/** Method and route → what the route answers. */
export interface Answers {
    "DELETE /dataset/picture": RemovedPicture;
    "DELETE /jobs/{job}": ForgottenJob;
    "DELETE /masks": MaskNames;
    "DELETE /presets": PresetsAnswer;
    "DELETE /sets": LoraSetList;
    "DELETE /train/presets": TrainingPresetList;
    "GET /choices": Choices;
    "GET /compare/axes": AxesAnswer;
    "GET /compare/history": PastSheets;
    "GET /compare/{folder}": SheetDetails;
    "GET /dataset": DatasetAnswer;
    "GET /dataset/edit": PictureEditAnswer;
    "GET /help": MessageHelp[];
    "GET /inspect": LoraFileDetails;
    "GET /jobs": JobList;
    "GET /jobs/{job}": JobAnswer;
    "GET /layouts": LayoutsAnswer;
    "GET /library": LibraryPage;
    "GET /library/first": FirstFile;
    "GET /library/names": FileNames;
    "GET /masks": MaskNames;
    "GET /native-size": NativeSize;
    "GET /pictures/newest": OutputImages;
    "GET /presets": PresetsAnswer;
    "GET /presets/export": PresetsText;
    "GET /resize/curve": RankCurve;
    "GET /sets": LoraSetList;
    "GET /sets/export": SetText;
    "GET /strings": Record<string, string>;
    "GET /train/begin": FileSettings;
    "GET /train/curve": TrainingCurve;
    "GET /train/form": TrainForm;
    "GET /train/history": TrainHistory;
    "GET /train/presets": TrainingPresetList;
    "GET /train/run": RunOfFile;
    "POST /compare": JobSummary;
    "POST /compare/blocks": JobSummary;
    "POST /compare/prompt": PromptText;
    "POST /conflicts": JobSummary;
    "POST /convert": JobSummary;
    "POST /dataset/describe": JobSummary;
    "POST /dataset/replace": ReplacedCaptions;
    "POST /dataset/tag": ReplacedCaptions;
    "POST /dataset/undo": ReplacedCaptions;
    "POST /duplicates": JobSummary;
    "POST /extract": JobSummary;
    "POST /generate": JobSummary;
    "POST /jobs/{job}/cancel": JobSummary;
    "POST /jobs/{job}/move": JobSummary;
    "POST /library/delete": JobSummary;
    "POST /library/insert": InsertedPrompt;
    "POST /library/move": MovedFiles;
    "POST /library/strip": JobSummary;
    "POST /merge": JobSummary;
    "POST /metadata": LoraFileDetails;
    "POST /presets/import": ImportedPresets;
    "POST /presets/rename": PresetsAnswer;
    "POST /preview": JobSummary;
    "POST /rename": FileName;
    "POST /resize": JobSummary;
    "POST /resize/preview": ResizePreview;
    "POST /reweight": JobSummary;
    "POST /sets/import": LoraSetList;
    "POST /sets/insert": InsertedPrompt;
    "POST /sets/read": SetText;
    "POST /split": JobSummary;
    "POST /tag": TagAnswer;
    "POST /tag/read": TagFields;
    "POST /teach/pictures": AddedPictures;
    "POST /teach/suggest": JobSummary;
    "POST /teach/upload": UploadedBytes;
    "POST /train": JobSummary;
    "POST /train/control": RequestedSamples;
    "POST /train/preflight": JobSummary;
    "POST /train/sample": RequestedSamples;
    "POST /train/settings-file": FileSettings;
    "POST /train/{name}/compare": JobSummary;
    "PUT /dataset/caption": SavedCaption;
    "PUT /dataset/edit": SavedPictureEdit;
    "PUT /library/marks": MarkedFiles;
    "PUT /library/notes": LoraFileDetails;
    "PUT /masks": MaskNames;
    "PUT /presets": PresetsAnswer;
    "PUT /sets": LoraSetList;
    "PUT /thumbnail": SavedThumbnail;
    "PUT /train/presets": TrainingPresetList;
}
