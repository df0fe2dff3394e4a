BEGIN TRANSACTION;
CREATE TABLE cells (
    id TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE,
    factors TEXT NOT NULL, spec TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
    versions TEXT NOT NULL DEFAULT '{}', seconds REAL, retention REAL, flops REAL, kv_bytes REAL,
    tokens TEXT NOT NULL DEFAULT '[]'
) WITHOUT ROWID;
INSERT INTO "cells" VALUES('b481b2b0dda486ba',1,'retention=0.35','{"model":"demo","task":"scenes","retention":"0.35","seed":"0"}','{"model":"demo","dtype":"auto","task":{"name":"scenes","batch_size":64,"scenes":1,"seed":0,"kinds":["count"]},"data":"","seed":0,"retention":0.35,"pipeline":{"name":"lightkv","source":"Chen, Guo, Zimmermann, TMLR 2026, arXiv 2605.00789","partitioner":"windows","scorer":"prompt-attention","matcher":"bipartite","aggregator":"weighted-mean","positions":"keep","schedule":[{"after_layer":1,"ratio":0.5,"windows":4},{"after_layer":4,"ratio":0.5,"windows":2},{"after_layer":7,"ratio":0.5,"windows":1}]}}','done','','{"lightkv":"0.1.0","torch":"2.13.0+cpu","transformers":"5.24.0","numpy":"2.4.6","python":"3.11.7","machine":"x86_64","threads":"1"}',0.0429135899994435,3.49537037037037034981e-01,3.64779432950086413001e-01,3.91774891774891775853e-01,'[144.0,80.0,80.0,80.0,40.0,40.0,40.0,20.0,20.0,20.0,20.0,20.0]');
INSERT INTO "cells" VALUES('d2ecae978b892e97',0,'vanilla','{"cell":"vanilla","model":"demo","task":"scenes"}','{"model":"demo","dtype":"auto","task":{"name":"scenes","batch_size":64,"scenes":1,"seed":0,"kinds":["count"]},"data":"","seed":0,"retention":null,"pipeline":{}}','done','','{"lightkv":"0.1.0","torch":"2.13.0+cpu","transformers":"5.24.0","numpy":"2.4.6","python":"3.11.7","machine":"x86_64","threads":"1"}',4.83544510007050121203e-02,1.0,1.0,1.0,'[144.0,144.0,144.0,144.0,144.0,144.0,144.0,144.0,144.0,144.0,144.0,144.0]');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('baseline','"vanilla"');
INSERT INTO "meta" VALUES('baselines','{"retention=0.35":"vanilla"}');
INSERT INTO "meta" VALUES('created','"2026-11-27T19:10:13+00:00"');
INSERT INTO "meta" VALUES('grid','{"name":"old","model":{"demo":"demo"},"dtype":"auto","task":{"scenes":{"name":"scenes","batch_size":64,"scenes":1,"seed":0,"kinds":["count"]}},"base":{"name":"lightkv","source":"Chen, Guo, Zimmermann, TMLR 2026, arXiv 2605.00789","partitioner":"windows","scorer":"prompt-attention","matcher":"bipartite","aggregator":"weighted-mean","positions":"keep","schedule":{"retention":0.55,"windows":[4,2,1]}},"retention":[0.35],"seeds":[0],"axes":{},"cells":[],"skip":[],"vanilla":true,"baseline":null,"equalise":"achieved"}');
INSERT INTO "meta" VALUES('models','{"demo":""}');
INSERT INTO "meta" VALUES('schema','1');
INSERT INTO "meta" VALUES('threads','1');
INSERT INTO "meta" VALUES('versions','{"lightkv":"0.1.0","torch":"2.13.0+cpu","transformers":"5.24.0","numpy":"2.4.6","python":"3.11.7","machine":"x86_64","threads":"1"}');
CREATE TABLE samples (
    cell TEXT NOT NULL REFERENCES cells(id), sample TEXT NOT NULL, cluster TEXT NOT NULL,
    kind TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, score REAL NOT NULL,
    retention REAL NOT NULL, PRIMARY KEY (cell, sample)
) WITHOUT ROWID;
INSERT INTO "samples" VALUES('b481b2b0dda486ba','000000-count','000000','count','how many digits there ?','3',1.0,3.49537037037037034981e-01);
INSERT INTO "samples" VALUES('d2ecae978b892e97','000000-count','000000','count','how many digits there ?','3',1.0,1.0);
COMMIT;
