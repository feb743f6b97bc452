// What the API answers, as far as the page reads it.

export interface Choices {
    checkpoints: string[];
    samplers: string[];
    schedulers: string[];
    /** Whether there is a Generate panel: the program draws by itself. */
    draws: boolean;
    /** Whether the page has the web UI's prompts. */
    prompts: boolean;
}

export interface Layouts {
    /** Number of block weights → the blocks that they are for. */
    layouts: Record<string, { name: string; labels: string[] }>;
    /** The blocks of SDXL's U-Net. */
    sdxl: string[];
}

/** A LoRA file in a list. */
export interface LibraryRow {
    name: string;
    /** What a prompt calls it. */
    call: string;
    title: string;
    bytes: number;
    time: number;
    base: string | null;
    kind: string | null;
    rank: number | null;
    mixed: boolean;
    error: string | null;
    /** When its thumbnail was made; null without one. */
    thumb: number | null;
}

export interface LibraryPage {
    total: number;
    /** How many files were not read yet. */
    pending: number;
    rows: LibraryRow[];
    facets: Record<string, Record<string, number>>;
    errors: string[];
}

/** How much a block's layers change; null where the base model's weights are needed to tell. */
export interface BlockNorm {
    block: string;
    norm: number | null;
}

/** A LoRA file with all that is in it but the tensors. */
export interface LoraFile extends LibraryRow {
    variant: string;
    family: string;
    ranks: Record<string, number>;
    dtypes: Record<string, number>;
    layers: number;
    hash: string;
    path: string;
    words: string[];
    warnings: string[];
    /** The two layouts of block weights for its base: attention blocks, all blocks. */
    layouts: [number, number];
    layout: number;
    blocks: BlockNorm[];
    metadata: Record<string, string>;
    not_finite: unknown;
    other: unknown;
    damaged: Record<string, unknown>;
}

export type JobState = "waiting" | "running" | "done" | "failed" | "cancelled";

export interface Job {
    id: string;
    kind: string;
    title: string;
    lane: string;
    state: JobState;
    done: number;
    total: number;
    text: string;
    log: string[];
    /** What may be shown meanwhile; its form depends on the kind. */
    live: any;
    result: any;
    error: string;
    /** Seconds to go. */
    left: number | null;
    started: number | null;
    ended: number;
    stopping: boolean;
}

export interface JobList {
    jobs: Job[];
    /** Changes when LoRA files came, went or changed. */
    library: [number, number];
    /** The extension that applies tags instead of this one; "" where none does. */
    applied_by: string;
}

export interface Preset {
    name: string;
    values: string;
    own: boolean;
    builtin: boolean;
}

export interface Presets {
    presets: Preset[];
    notes: string[];
}

export interface Pictures {
    pictures: { name: string; infotext?: string }[];
    notes?: string[];
}

/** What the analysis of a file's blocks found. */
export interface BlockAnalysis {
    name: string;
    title: string;
    layout: number;
    way: string;
    shares: Record<string, number>;
    outside: number;
    pictures: Record<string, string>;
    map: string;
}

export interface LayerChange {
    layer: string;
    old_rank: number | null;
    new_rank: number | null;
    kept: number;
    note: string;
}

export interface ToolReport {
    totals: { layers: number; rank_before: number; rank_after: number; kept: number; survived: number };
    largest_loss: { layer: string; kept: number } | null;
    layers: LayerChange[];
    only_in: Record<string, string[]>;
    not_understood: Record<string, string[]>;
    left_out: Record<string, string[]>;
    unchanged: string[];
    notes: string[];
}

export interface ToolResult {
    report: ToolReport;
    files: string[];
    checkpoint?: string;
}

/** A training option. */
export interface FormField {
    name: string;
    help: string;
    group: string;
    type: "int" | "float" | "bool" | "str" | "strs" | string;
    /** "folder" or "file" for a path. */
    kind: string;
    choices: string[];
    low: number | null;
    high: number | null;
    basic: boolean;
    default: any;
    optional: boolean;
}

export interface TrainForm {
    fields: FormField[];
    datasets: string[];
    /** Whether the model that the web UI has loaded is trained. */
    loaded: boolean;
    /** What describes pictures here, by name. */
    captioners: string[];
}

/** Step, loss, smoothed loss, learning rates of the U-Net and of the text encoder. */
export type CurveRow = [number, number | null, number | null, number | null, number | null];

export interface TrainRun {
    name: string;
    settings: Record<string, any>;
    prompts: string;
    begun?: number;
    ended?: number;
    error?: string;
    stopped?: boolean;
    steps: number;
    seconds: number;
    loss?: number;
    files: string[];
    samples: string[];
    /** The saved state from which it can be resumed. */
    state?: string;
    /** The job that draws its sheet. */
    sheet?: string;
}

export interface TrainProgress {
    rows?: CurveRow[];
    progress: { epoch: number; epochs: number };
    samples: string[];
    files: string[];
    memory: number | null;
}

export interface PreflightReport {
    concepts: { folder: string; pictures: number; repeats: number; turns: number; regularisation: boolean }[];
    buckets: { size: number[]; pictures: number; batches: number }[];
    steps: number;
    epochs: number;
    steps_per_epoch: number;
    expected: { total_seconds: number; bytes: number | null } | null;
    notes: string[];
    skipped: string[];
    too_long: [string, number][];
    limit: number;
    without_caption: string[];
    duplicates: string[][];
}

export interface DatasetPicture {
    name: string;
    caption: string;
    concept: string;
    bucket: string;
    repeats: number;
    time: number;
}

export interface Dataset {
    pictures: DatasetPicture[];
    missing: number;
    buckets: Record<string, number>;
    tags: Record<string, number>;
    skipped: string[];
}

export interface AxisKind {
    name: string;
    title: string;
    example: string;
}

export interface SheetScore {
    difference: number;
    sharpness: number;
    likeness: number | null;
    copy_of: string | null;
}

export interface SheetCell {
    x: number;
    y: number;
    z: number;
    tag: string;
    prompt: string;
    seed: number;
    file: string | null;
    score: SheetScore | null;
    /** The picture that this one is equal to. */
    same_as: string | null;
}

export interface SheetAxis {
    title: string;
    labels: string[];
}

/** A comparison sheet. */
export interface Sheet {
    folder: string;
    axes: { x: SheetAxis; y: SheetAxis; z: SheetAxis };
    cells: SheetCell[];
    complete: boolean;
    suggested: { cells: number[]; reason: string } | null;
    same: string | null;
    warning: string | null;
    measured: string | null;
    pages: string[];
    table: boolean;
    asked: Record<string, any>;
}
