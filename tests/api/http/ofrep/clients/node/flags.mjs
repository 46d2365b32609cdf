// Both OpenFeature SDKs of JavaScript against the address in SEGMENTD_URL; each line of the output is JSON.
import { EventSource } from 'eventsource';
import { OpenFeature as Server } from '@openfeature/server-sdk';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { OpenFeature as Web, ProviderEvents } from '@openfeature/web-sdk';
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';

const baseUrl = process.env.SEGMENTD_URL;
const headers = [['X-API-Key', process.env.SEGMENTD_TOKEN]];
const say = (details) =>
  console.log(JSON.stringify([details.value, details.reason, details.variant ?? null, details.errorCode ?? null]));

// On a server, flag by flag.
await Server.setProviderAndWait(new OFREPProvider({ baseUrl, headers }));
const server = Server.getClient();
for (const [key, targetingKey] of [['ON', '1000'], ['OFF', '1000'], ['NOBODY', '1000'], ['ON', 'x'], ['ON', undefined]]) {
  say(await server.getBooleanDetails(key, false, { targetingKey, plan: 'premium' }));
}

// In a page: all flags at once, and again when the stream of events says so.
globalThis.EventSource = EventSource;
await Web.setContext({ targetingKey: '1001' });
await Web.setProviderAndWait(new OFREPWebProvider({ baseUrl, headers, cacheMode: 'disabled' }));
const web = Web.getClient();
for (const key of ['ON', 'OFF', 'NOBODY']) say(web.getBooleanDetails(key, false));
const changed = new Promise((resolve) =>
  Web.addHandler(ProviderEvents.ConfigurationChanged, (event) => resolve(event.flagsChanged)),
);
console.log(JSON.stringify('watching'));
console.log(JSON.stringify(await changed));
say(web.getBooleanDetails('OFF', false));

// Without a token.
const refused = new OFREPWebProvider({ baseUrl, cacheMode: 'disabled' });
await Web.setProviderAndWait('refused', refused).catch((error) => console.log(JSON.stringify(error.code)));
process.exit(0);
