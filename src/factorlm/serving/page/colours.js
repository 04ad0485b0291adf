// Which colour a name has, and what colour a token gets from the factor that pushed it most.

/** Hands out the colours of a palette, the first one that is free to each new name; a name keeps its own. */
export class Colours {
  constructor(palette) {
    this.palette = palette;
    this.places = new Map();
  }

  of(name) {
    if (!this.places.has(name)) {
      const taken = new Set(this.places.values());
      const free = this.palette.findIndex((_, index) => !taken.has(index));
      this.places.set(name, free < 0 ? this.places.size : free);
    }
    return this.palette[this.places.get(name) % this.palette.length];
  }

  /** Takes the colours back from all names but these. */
  keep(names) {
    for (const name of this.places.keys()) if (!names.includes(name)) this.places.delete(name);
  }
}

/** The factor that pushed a token most, how full its colour is (0 to 1), and whether the token stood against it. */
export function strongest(pushes, visible, full) {
  const [name, nats] = Object.entries(pushes ?? {}).reduce(
    (best, push) => (Math.abs(push[1] ?? 0) > Math.abs(best[1]) ? push : best), // null where a push was infinite
    ["", 0],
  );
  if (Math.abs(nats) < visible) return null;
  return { name, share: Math.min(Math.abs(nats) / full, 1), isAgainst: nats < 0 };
}
