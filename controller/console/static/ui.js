// Preact and htm under one roof.

import { h, render } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";

export { useCallback, useEffect, useMemo, useRef, useState } from "./vendor/hooks.mjs";
export { render };
export const html = htm.bind(h);
