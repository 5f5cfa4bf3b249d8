{
 "dfmVersion": "1.1",
 "taskInfo": {
  "name": "SYNTHETIC_EDW",
  "sourceEndpoint": "SYNTHETIC_SOURCE",
  "sourceEndpointType": "Oracle",
  "sourceEndpointUser": "",
  "replicationServer": "replicate.example",
  "operation": "fullLoad"
 },
 "fileInfo": {
  "name": "LOAD000000BB.csv",
  "extension": "gz",
  "location": "cubic/ods_qlik/EDW.TRANSFER_SLIP",
  "startWriteTimestamp": "2026-01-06T12:00