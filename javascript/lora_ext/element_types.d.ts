// What an element's children may be given as; a JSDoc type cannot name itself.

export type Child = Node | string | number | boolean | null | undefined | readonly Child[];
